/**
 * The common part of TeX's mathematics as MathML: letters, scripts, fractions, roots, brackets, matrices, accents, symbols.
 * No DOM until `mathNode`.
 */

const NS = "http://www.w3.org/1998/Math/MathML";
const LONGEST = 2000;
const DEEPEST = 30;
const words = (text) => Object.fromEntries(text.trim().split(/\s+/).map((pair) => pair.split("=")));
const SYMBOLS = words(`alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ iota=ι kappa=κ lambda=λ mu=μ nu=ν xi=ξ pi=π
  rho=ρ sigma=σ tau=τ upsilon=υ phi=ϕ varphi=φ chi=χ psi=ψ omega=ω Gamma=Γ Delta=Δ Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Phi=Φ Psi=Ψ
  Omega=Ω infty=∞ partial=∂ nabla=∇ ell=ℓ hbar=ℏ emptyset=∅ varnothing=∅ angle=∠ circ=∘ prime=′ aleph=ℵ Re=ℜ Im=ℑ wp=℘ imath=ı jmath=ȷ
  varpi=ϖ varrho=ϱ varsigma=ς vartheta=ϑ top=⊤ bot=⊥ square=□ triangle=△ degree=° bullet=• dagger=† ddagger=‡ vdots=⋮ ddots=⋱`);
const OPERATORS = words(`times=× cdot=⋅ div=÷ pm=± mp=∓ le=≤ leq=≤ ge=≥ geq=≥ ne=≠ neq=≠ approx=≈ equiv=≡ sim=∼ propto=∝ to=→ rightarrow=→
  leftarrow=← Rightarrow=⇒ Leftrightarrow=⇔ iff=⇔ implies=⇒ mapsto=↦ in=∈ notin=∉ subset=⊂ subseteq=⊆ cup=∪ cap=∩ forall=∀ exists=∃
  neg=¬ land=∧ wedge=∧ lor=∨ vee=∨ sum=∑ prod=∏ int=∫ oint=∮ ldots=… dots=… cdots=⋯ mid=| langle=⟨ rangle=⟩ lfloor=⌊ rfloor=⌋
  lceil=⌈ rceil=⌉ ast=∗ star=⋆ perp=⊥ parallel=∥ ll=≪ gg=≫ lt=< gt=> supset=⊃ supseteq=⊇ subsetneq=⊊ supsetneq=⊋ setminus=∖ nsubseteq=⊈
  oplus=⊕ ominus=⊖ otimes=⊗ odot=⊙ cong=≅ simeq=≃ doteq=≐ asymp=≍ succ=≻ prec=≺ succeq=⪰ preceq=⪯ vdash=⊢ dashv=⊣ models=⊨ uparrow=↑
  downarrow=↓ leftrightarrow=↔ longrightarrow=⟶ longleftarrow=⟵ Longrightarrow=⟹ Longleftrightarrow=⟺ Leftarrow=⇐ Uparrow=⇑ Downarrow=⇓
  hookrightarrow=↪ gets=← impliedby=⇐ therefore=∴ because=∵ iint=∬ iiint=∭ coprod=∐ bigcup=⋃ bigcap=⋂ bigoplus=⨁ bigotimes=⨂ bigvee=⋁
  bigwedge=⋀ lnot=¬ nexists=∄ ni=∋ vert=| Vert=‖ lvert=| rvert=| lVert=‖ rVert=‖ lbrace={ rbrace=} lbrack=[ rbrack=] colon=: rightleftharpoons=⇌
  leqslant=⩽ geqslant=⩾ ge=≥ trianglelefteq=⊴ sqcup=⊔ sqcap=⊓ uplus=⊎ amalg=⨿ wr=≀ diamond=⋄ bowtie=⋈ upharpoonright=↾ backslash=\\`);
const NAMES = new Set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp arg dim ker deg hom mod bmod".split(" "));
const LIMITS = new Set("lim max min sup inf det gcd Pr limsup liminf argmax argmin".split(" "));
const LARGE = new Set([..."∑∏∐⋃⋂⨁⨂⋁⋀"]);
const SPACES = { quad: "1em", qquad: "2em", ",": "0.17em", ":": "0.22em", ">": "0.22em", ";": "0.28em", " ": "0.25em", "!": "-0.17em", enspace: "0.5em", thinspace: "0.17em" };
const ACCENTS = words("hat=^ widehat=^ bar=‾ overline=‾ vec=→ overrightarrow=→ dot=˙ ddot=¨ tilde=~ widetilde=~ check=ˇ breve=˘ acute=´ grave=`");
const BRACES = { overbrace: ["mover", "⏞"], underbrace: ["munder", "⏟"], underline: ["munder", "_"] };
const ENVIRONMENTS = { matrix: "", smallmatrix: "", pmatrix: "()", bmatrix: "[]", Bmatrix: "{}", vmatrix: "||", Vmatrix: "‖‖", cases: "{", array: "",
  aligned: "", align: "", "align*": "", alignedat: "", gathered: "", gather: "", "gather*": "", split: "", equation: "", "equation*": "" };
const SIZES = /^[bB]igg?[lrm]?$/;
const IGNORED = new Set("displaystyle textstyle scriptstyle limits nolimits nonumber notag".split(" "));
const NEGATED = { "=": "≠", "<": "≮", ">": "≯", "∈": "∉", "⊂": "⊄", "⊆": "⊈", "≡": "≢", "∼": "≁", "≈": "≉", "∃": "∄", "|": "∤", "∥": "∦" };
const DOUBLE = words("R=ℝ N=ℕ Z=ℤ Q=ℚ C=ℂ P=ℙ");
const PLAIN = /[+=<>()[\]|,;:!/*'.?"@-]/;
const CALLIGRAPHIC = words("B=ℬ E=ℰ F=ℱ H=ℋ I=ℐ L=ℒ M=ℳ R=ℛ");

class Reader {
  constructor(text) {
    Object.assign(this, { text, at: 0, depth: 0 });
  }

  /** Everything up to `stop`, which is taken too. */
  row(stop = "") {
    const found = this.until(() => (stop ? this.text.startsWith(stop, this.at) : this.at >= this.text.length));
    this.at += stop.length;
    return found;
  }

  /** Everything before `ends()` holds. */
  until(ends) {
    const children = [];
    this.depth += 1;
    if (this.depth > DEEPEST) throw new SyntaxError("too deep");
    for (;;) {
      this.spaces();
      if (ends()) break;
      const each = this.scripted();
      if (each) children.push(each);
    }
    this.depth -= 1;
    return children.length === 1 ? children[0] : { tag: "mrow", children };
  }

  spaces() {
    while (/\s/.test(this.text[this.at] ?? "")) this.at += 1;
  }

  scripted() {
    const base = this.atom();
    const scripts = {};
    for (;;) {
      this.spaces();
      const mark = this.text[this.at];
      if (mark !== "^" && mark !== "_") break;
      if (scripts[mark]) throw new SyntaxError("two scripts");
      this.at += 1;
      scripts[mark] = this.argument();
    }
    const { _: sub, "^": sup } = scripts;
    if (!sub && !sup) return base;
    if (!base) throw new SyntaxError("a script of nothing");
    if (base.limits) return { tag: sub && sup ? "munderover" : sub ? "munder" : "mover", children: [base, sub, sup].filter(Boolean) };
    return { tag: sub && sup ? "msubsup" : sub ? "msub" : "msup", children: [base, sub, sup].filter(Boolean) };
  }

  argument() {
    this.spaces();
    return this.atom() ?? fail("argument");
  }

  atom() {
    const c = this.text[this.at];
    const number = /^\d+(?:\.\d+)?/.exec(this.text.slice(this.at, this.at + 50))?.[0];
    if (number) this.at += number.length;
    else this.at += 1;
    if (number) return { tag: "mn", text: number };
    if (c === "{") return this.row("}");
    if (c === "\\") return this.command();
    if (c === "~") return space("0.25em");
    if (c === "'") return { tag: "mo", text: "′" };
    if (/\p{L}/u.test(c ?? "")) return { tag: "mi", text: c };
    if (PLAIN.test(c ?? "")) return { tag: "mo", text: c === "-" ? "−" : c };
    throw new SyntaxError(`not known: ${c}`);
  }

  command() {
    const name = /^(?:[A-Za-z]+|.)/.exec(this.text.slice(this.at, this.at + 30))?.[0] ?? "";
    this.at += name.length;
    if (SYMBOLS[name]) return { tag: "mi", text: SYMBOLS[name] };
    if (OPERATORS[name]) return { tag: "mo", text: OPERATORS[name], limits: LARGE.has(OPERATORS[name]) };
    if (NAMES.has(name)) return { tag: "mi", text: name === "bmod" ? "mod" : name };
    if (LIMITS.has(name)) return { tag: "mo", text: name.replace(/(?<=lim|arg)/, " ").trim(), limits: true, attributes: { movablelimits: "true" } };
    if (/^[dtc]?frac$/.test(name)) return { tag: "mfrac", children: [this.argument(), this.argument()] };
    if (/^[dt]?binom$/.test(name)) return this.binomial();
    if (name === "sqrt") return this.root();
    if (/^(?:text(?:rm|it|sf|tt|normal)?|mathrm|mathsf|mathtt|mathit|operatorname|mbox)$/.test(name)) return { tag: "mtext", text: this.raw() };
    if (name === "mathbb") return letters(this.raw(), (c) => DOUBLE[c] ?? fail(name));
    if (name === "mathcal" || name === "mathscr") return letters(this.raw(), (c) => CALLIGRAPHIC[c] ?? shifted(c, 0x1d49c, 0));
    if (/^(?:mathbf|boldsymbol|bm|textbf)$/.test(name)) return this.bold();
    if (name === "left") return this.bracketed();
    if (name === "begin") return this.environment();
    if (name === "pmod") return { tag: "mrow", children: [mo("("), { tag: "mi", text: "mod" }, space("0.3em"), this.argument(), mo(")")] };
    if (name === "not") return this.negated();
    if (ACCENTS[name]) return { tag: "mover", children: [this.argument(), mo(ACCENTS[name])], attributes: { accent: "true" } };
    if (BRACES[name]) return { tag: BRACES[name][0], children: [this.argument(), mo(BRACES[name][1])], limits: name !== "underline" };
    if (/^(?:over|under|stack)(?:set|rel)$/.test(name)) return this.stacked(name);
    if (SIZES.test(name)) return this.fence();
    if (SPACES[name]) return space(SPACES[name]);
    if (IGNORED.has(name)) return null;
    if (/^[{}%$#&_|]$/.test(name)) return mo(name === "|" ? "‖" : name);
    return fail(name);
  }

  binomial() {
    const rows = [this.argument(), this.argument()];
    return { tag: "mrow", children: [mo("("), { tag: "mfrac", children: rows, attributes: { linethickness: "0" } }, mo(")")] };
  }

  negated() {
    const found = this.argument();
    return mo(NEGATED[found.text] ?? fail("not"));
  }

  stacked(name) {
    const [mark, base] = [this.argument(), this.argument()];
    return { tag: name.startsWith("under") ? "munder" : "mover", children: [base, mark] };
  }

  /** Bold letters; bold Greek stays as it is. */
  bold() {
    this.spaces();
    if (this.text[this.at] !== "{") return this.argument();
    const inner = this.text.slice(this.at + 1, this.text.indexOf("}", this.at));
    if (!/^[A-Za-z0-9]+$/.test(inner)) return this.argument();
    return letters(this.raw(), (c) => (/\d/.test(c) ? String.fromCodePoint(0x1d7ce + Number(c)) : shifted(c, 0x1d400, 0x1d41a)));
  }

  /** \begin{...} with rows and cells. */
  environment() {
    const name = this.raw();
    const fences = ENVIRONMENTS[name] ?? fail(name);
    if (name === "array" || name === "alignedat") this.raw();
    const close = `\\end{${name}}`;
    const ends = () => ["&", "\\\\", close].some((mark) => this.text.startsWith(mark, this.at)) || (this.at >= this.text.length && fail(name));
    const rows = [[]];
    for (;;) {
      if (this.text.startsWith("\\hline", this.at)) this.at += 6;
      rows.at(-1).push({ tag: "mtd", children: [this.until(ends)] });
      if (this.text.startsWith(close, this.at)) break;
      if (this.text[this.at] === "&") this.at += 1;
      else {
        this.at += 2;
        this.at += /^\[[^\]]*\]/.exec(this.text.slice(this.at, this.at + 20))?.[0].length ?? 0;
        rows.push([]);
      }
    }
    this.at += close.length;
    const filled = rows.filter((cells) => cells.length > 1 || cells[0].children[0].children?.length !== 0);
    const class_ = /^(?:align|split|cases)/.test(name) ? (name === "cases" ? "cases" : "aligned") : undefined;
    const table = { tag: "mtable", children: filled.map((cells) => ({ tag: "mtr", children: cells })), attributes: class_ ? { class: class_, displaystyle: String(class_ === "aligned") } : {} };
    return fences ? { tag: "mrow", children: [mo(fences[0]), table, ...(fences[1] ? [mo(fences[1])] : [])] } : table;
  }

  root() {
    this.spaces();
    if (this.text[this.at] !== "[") return { tag: "msqrt", children: [this.argument()] };
    this.at += 1;
    const index = this.row("]");
    return { tag: "mroot", children: [this.argument(), index] };
  }

  bracketed() {
    const open = this.fence();
    const inner = this.row("\\right");
    return { tag: "mrow", children: [open, inner, this.fence()] };
  }

  fence() {
    this.spaces();
    const c = this.text[this.at];
    this.at += 1;
    if (c === "<" || c === ">") return mo(c === "<" ? "⟨" : "⟩");
    return { tag: "mo", text: c === "." ? "" : c === "\\" ? this.command().text : /[()[\]|/]/.test(c ?? "") ? c : fail(c) };
  }

  /** The text in braces, as it is. */
  raw() {
    this.spaces();
    const end = this.text.indexOf("}", this.at);
    if (this.text[this.at] !== "{" || end < 0) fail("text");
    const found = this.text.slice(this.at + 1, end);
    this.at = end + 1;
    return found;
  }
}

const mo = (text) => ({ tag: "mo", text });
const space = (width) => ({ tag: "mspace", children: [], attributes: { width } });

/** Letters of another alphabet, in one. */
function letters(text, made) {
  if (!/^[A-Za-z0-9]+$/.test(text)) fail("alphabet");
  return { tag: "mi", text: [...text].map(made).join("") };
}

/** The letter so many places behind the first of an alphabet; capitals, and small ones where there are any. */
function shifted(c, capitals, small) {
  if (/[A-Z]/.test(c)) return String.fromCodePoint(capitals + c.charCodeAt(0) - 65);
  return small && /[a-z]/.test(c) ? String.fromCodePoint(small + c.charCodeAt(0) - 97) : fail("alphabet");
}

function fail(name) {
  throw new SyntaxError(`not known: ${name}`);
}

/** A formula with its delimiters as a tree {tag, text or children, display}; null for what is beyond the common part. */
export function readMath(source) {
  const inner = source.slice(2, -2);
  if (inner.length > LONGEST || !inner.trim()) return null;
  try {
    return { tag: "math", display: !source.startsWith("\\("), children: [new Reader(inner).row()] };
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof TypeError) return null;
    throw error;
  }
}

/** The element of a tree. */
export function mathNode({ tag, text, children = [], display, attributes = {} }) {
  const node = document.createElementNS(NS, tag);
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (display) node.setAttribute("display", "block");
  node.append(...children.map((child) => mathNode(child)));
  return node;
}
