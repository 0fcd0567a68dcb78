/** Colours code with one small lexer: strings, comments, numbers, keywords, names of calls. */

const C = "auto bool break case char class const continue default delete do double else enum explicit extern false final float for friend goto if inline int long namespace new noexcept nullptr operator override private protected public return short signed sizeof static struct switch template this throw true try typedef typename union unsigned using virtual void volatile while";
const JS = "async await break case catch class const continue debugger default delete do else export extends false finally for from function get if import in instanceof let new null of return set static super switch this throw true try typeof undefined var void while with yield interface type enum implements private public readonly declare namespace as";
const WORDS = {
  python: "and as assert async await break case class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return True try while with yield self",
  javascript: JS,
  c: C,
  java: `${JS} abstract boolean byte double final float int long package protected short synchronized throws transient void volatile`,
  rust: "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true type unsafe use where while",
  go: "break case chan const continue default defer else fallthrough false for func go goto if import interface map nil package range return select struct switch true type var",
  shell: "if then else elif fi for while until do done case esac in function return export local echo cd set unset exit source sudo",
  sql: "select from where and or not insert into values update set delete create table drop alter join left right inner outer on group by order having limit as distinct union null is in like between case when then else end primary key references index view",
  json: "true false null",
  ruby: "alias and begin break case class def do else elsif end ensure false for if in module next nil not or redo rescue retry return self super then true undef unless until when while yield",
  css: "important inherit initial unset none auto",
  lua: "and break do else elseif end false for function if in local nil not or repeat return then true until while",
};
const ALIASES = {
  py: "python", python3: "python", js: "javascript", ts: "javascript", typescript: "javascript", jsx: "javascript", tsx: "javascript", mjs: "javascript",
  "c++": "c", cpp: "c", h: "c", hpp: "c", cc: "c", cuda: "c", "c#": "java", cs: "java", kotlin: "java", kt: "java", swift: "java", scala: "java",
  rs: "rust", golang: "go", sh: "shell", bash: "shell", zsh: "shell", console: "shell", toml: "json", yaml: "json", yml: "json", rb: "ruby", scss: "css",
};
const HASH = ["#[^\\n]*"];
const SLASH = ["//[^\\n]*", "/\\*[\\s\\S]*?(?:\\*/|$)"];
const COMMENTS = { python: HASH, ruby: HASH, shell: ["(?<![^\\s])#[^\\n]*"], json: ["(?<![^\\s])#[^\\n]*", "//[^\\n]*"], sql: ["--[^\\n]*", SLASH[1]], lua: ["--[^\\n]*"], css: [SLASH[1]] };
const STRINGS = ['"(?:[^"\\\\\\n]|\\\\[\\s\\S])*"?', "'(?:[^'\\\\\\n]|\\\\[\\s\\S])*'?"];
const LONG = { python: ['"""[\\s\\S]*?(?:"""|$)', "'''[\\s\\S]*?(?:'''|$)"], javascript: ["`(?:[^`\\\\]|\\\\[\\s\\S])*`?"], go: ["`[^`]*`?"], shell: [] };
const RUST_STRING = [STRINGS[0], "'(?:[^'\\\\\\n]|\\\\.)'"];
const lexers = new Map();

/** The pieces of a source: [class or "", text]; together they are the source. */
export function tokens(source, lang) {
  const name = ALIASES[lang.toLowerCase()] ?? lang.toLowerCase();
  if (!WORDS[name]) return [["", source]];
  const { lexer, words } = lexerOf(name);
  const found = [];
  let at = 0;
  for (const match of source.matchAll(lexer)) {
    const [text, comment, string, number, word, call] = match;
    const kind = comment ? "c" : string ? "s" : number ? "n" : words.has(name === "sql" ? word.toLowerCase() : word) ? "k" : call ? "f" : "";
    if (!kind) continue;
    if (match.index > at) found.push(["", source.slice(at, match.index)]);
    const end = match.index + (word ? word.length : text.length);
    found.push([`tok-${kind}`, source.slice(match.index, end)]);
    at = end;
  }
  if (at < source.length) found.push(["", source.slice(at)]);
  return found;
}

function lexerOf(name) {
  if (!lexers.has(name)) {
    const strings = [...(LONG[name] ?? []), ...(name === "rust" ? RUST_STRING : STRINGS)].join("|");
    const comments = (COMMENTS[name] ?? SLASH).join("|");
    const lexer = new RegExp(`(${comments})|(${strings})|((?<![\\w.])(?:0[xX][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\w*)|([A-Za-z_$][\\w$]*)(?=(\\()?)`, "g");
    lexers.set(name, { lexer, words: new Set(WORDS[name].split(" ")) });
  }
  return lexers.get(name);
}

/** Colours the text of a `code` element. */
export function highlight(code, lang) {
  const pieces = tokens(code.textContent, lang);
  if (pieces.length === 1 && !pieces[0][0]) return;
  code.replaceChildren(...pieces.map(([kind, text]) => {
    if (!kind) return text;
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = text;
    return span;
  }));
}
