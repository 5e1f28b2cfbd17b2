/** How a checker says that a rule was broken. */
export type Report = (rule: string, what: string) => void;
