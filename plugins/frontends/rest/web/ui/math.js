/** The common part of TeX's mathematics as MathML: letters, scripts, fractions, roots, brackets, symbols. No DOM until `mathNode`. */

const NS = "http://www.w3.org/1998/Math/MathML";
const LONGEST = 2000;
const DEEPEST = 30;
const words = (text) => Object.fromEntries(text.trim().split(/\s+/).map((pair) => pair.split("=")));
const SYMBOLS = words(`alpha=α beta=β gamma=γ delta=δ epsilon=ϵ varepsilon=ε zeta=ζ eta=η theta=θ iota=ι kappa=κ lambda=λ mu=μ nu=ν xi=ξ pi=π
  rho=ρ sigma=σ tau=τ upsilon=υ phi=ϕ varphi=φ chi=χ psi=ψ omega=ω Gamma=Γ Delta=Δ Theta=Θ Lambda=Λ Xi=Ξ Pi=Π Sigma=Σ Phi=Φ Psi=Ψ
  Omega=Ω infty=∞ partial=∂ nabla=∇ ell=ℓ hbar=ℏ emptyset=∅ angle=∠ circ=∘ prime=′`);
const OPERATORS = words(`times=× cdot=⋅ div=÷ pm=± mp=∓ le=≤ leq=≤ ge=≥ geq=≥ ne=≠ neq=≠ approx=≈ equiv=≡ sim=∼ propto=∝ to=→ rightarrow=→
  leftarrow=← Rightarrow=⇒ Leftrightarrow=⇔ iff=⇔ implies=⇒ mapsto=↦ in=∈ notin=∉ subset=⊂ subseteq=⊆ cup=∪ cap=∩ forall=∀ exists=∃
  neg=¬ land=∧ wedge=∧ lor=∨ vee=∨ sum=∑ prod=∏ int=∫ oint=∮ ldots=… dots=… cdots=⋯ mid=| langle=⟨ rangle=⟩ lfloor=⌊ rfloor=⌋
  lceil=⌈ rceil=⌉ ast=∗ star=⋆ perp=⊥ parallel=∥`);
const NAMES = new Set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp lim max min sup inf det gcd arg dim ker mod Pr".split(" "));
const DOUBLE = words("R=ℝ N=ℕ Z=ℤ Q=ℚ C=ℂ P=ℙ");
const PLAIN = /[+=<>()[\]|,;:!/*'.?-]/;

class Reader {
  constructor(text) {
    Object.assign(this, { text, at: 0, depth: 0 });
  }

  /** Everything up to `stop`, which is taken too. */
  row(stop = "") {
    const children = [];
    this.depth += 1;
    if (this.depth > DEEPEST) throw new SyntaxError("too deep");
    for (;;) {
      this.spaces();
      if (stop ? this.text.startsWith(stop, this.at) : this.at >= this.text.length) break;
      children.push(this.scripted());
    }
    this.depth -= 1;
    this.at += stop.length;
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
    return { tag: sub && sup ? "msubsup" : sub ? "msub" : "msup", children: [base, sub, sup].filter(Boolean) };
  }

  argument() {
    this.spaces();
    return this.atom();
  }

  atom() {
    const c = this.text[this.at];
    const number = /^\d+(?:\.\d+)?/.exec(this.text.slice(this.at, this.at + 50))?.[0];
    if (number) this.at += number.length;
    else this.at += 1;
    if (number) return { tag: "mn", text: number };
    if (c === "{") return this.row("}");
    if (c === "\\") return this.command();
    if (/\p{L}/u.test(c ?? "")) return { tag: "mi", text: c };
    if (PLAIN.test(c ?? "")) return { tag: "mo", text: c === "-" ? "−" : c };
    throw new SyntaxError(`not known: ${c}`);
  }

  command() {
    const name = /^(?:[A-Za-z]+|.)/.exec(this.text.slice(this.at, this.at + 30))?.[0] ?? "";
    this.at += name.length;
    if (SYMBOLS[name]) return { tag: "mi", text: SYMBOLS[name] };
    if (OPERATORS[name]) return { tag: "mo", text: OPERATORS[name] };
    if (NAMES.has(name)) return { tag: "mi", text: name };
    if (name === "frac" || name === "dfrac" || name === "tfrac") return { tag: "mfrac", children: [this.argument(), this.argument()] };
    if (name === "sqrt") return this.root();
    if (name === "text" || name === "mathrm" || name === "operatorname") return { tag: "mtext", text: this.raw() };
    if (name === "mathbb") return { tag: "mi", text: DOUBLE[this.raw()] ?? fail(name) };
    if (name === "left") return this.bracketed();
    if (name === "quad" || /^[,;: ]$/.test(name)) return { tag: "mtext", text: " " };
    if (/^[{}%$#&_|]$/.test(name)) return { tag: "mo", text: name === "|" ? "‖" : name };
    return fail(name);
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
    return { tag: "mo", text: c === "." ? "" : c === "\\" ? this.command().text : /[()[\]|]/.test(c ?? "") ? c : fail(c) };
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
export function mathNode({ tag, text, children = [], display }) {
  const node = document.createElementNS(NS, tag);
  if (text !== undefined) node.textContent = text;
  if (display) node.setAttribute("display", "block");
  node.append(...children.map((child) => mathNode(child)));
  return node;
}
