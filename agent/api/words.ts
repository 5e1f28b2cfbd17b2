/** Names for services that were given none: `<adjective>_<surname>`. */
import type { Random } from "../../core/random.ts";

const ADJECTIVES =
  "amber ardent brave bright brisk calm candid clear clever crisp daring deft eager early earnest fair fleet fond frank fresh gentle glad grand hardy hearty honest jolly keen kind lively lucid lucky mellow merry mild modest neat nimble noble patient placid plucky polite proud quick quiet rapid ready robust serene sharp silent sincere sleek smooth spry steady stout subtle sunny swift tidy tranquil trusty upbeat vivid warm wise witty zesty";
const SURNAMES =
  "abel ampere babbage banach bell bohr boole brahe cantor carson chandra cori curie dalton darwin dirac eckert edison einstein erdos euler faraday fermi fourier franklin galileo galois gauss germain goodall haller hamilton herschel hilbert hodgkin hopper huygens jacobi jemison kepler knuth lamarr lamport laplace liskov lovelace maxwell mayer meitner mendel mirzakhani morse neumann newton nobel noether ohm pascal pauling perlman planck raman ritchie rosalind sammet shannon tesla thompson turing volta watt wiles wu yalow yonath";

export function randomName(random: Random): string {
  return `${pick(ADJECTIVES, random)}_${pick(SURNAMES, random)}`;
}

function pick(words: string, random: Random): string {
  const list = words.split(" ");
  return list[Math.floor(random.next() * list.length)] ?? "plain";
}
