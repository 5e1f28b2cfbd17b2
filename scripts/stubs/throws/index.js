// msgpackr falls back to its JavaScript decoder when its native add-on cannot be loaded.
throw new Error("The native add-on of msgpackr is not used");
