/** When text is drawn while it arrives, and the scroll position that follows it, which only the reader lets go of. */

const HIDDEN_TAB_MS = 500;

/** Calls `draw` once in the next frame however often it is asked; in a hidden tab, which has no frames, by a timer. */
export function everyFrame(draw) {
  let asked = false;
  const run = () => {
    if (!asked) return;
    asked = false;
    draw();
  };
  return () => {
    if (asked) return;
    asked = true;
    if (document.hidden) setTimeout(run, HIDDEN_TAB_MS);
    else {
      requestAnimationFrame(run);
      document.addEventListener("visibilitychange", run, { once: true });
    }
  };
}

const AWAY_KEYS = new Set(["PageUp", "Home", "ArrowUp"]);

/**
 * Follows the end of `scroller`. Only what the reader does lets go: the wheel, a finger or a key upwards, the scroll
 * bar, a selection, focus that moves into the text. Reaching the end takes hold again.
 */
export class Pin {
  pinned = true;
  #grabbed = false;

  constructor(scroller, { changed = () => {} } = {}) {
    Object.assign(this, { scroller, changed, touch: 0, last: 0, limit: () => Infinity });
    const on = (type, listener) => scroller.addEventListener(type, listener, { passive: true });
    on("wheel", (event) => event.deltaY < 0 && this.set(false));
    on("touchstart", (event) => (this.touch = event.touches[0].clientY));
    on("touchmove", (event) => event.touches[0].clientY > this.touch + 4 && this.set(false));
    on("keydown", (event) => AWAY_KEYS.has(event.key) && !event.target.matches("textarea, input") && this.set(false));
    on("pointerdown", (event) => (this.#grabbed = event.target === scroller));
    addEventListener("pointerup", () => (this.#grabbed = false));
    on("scroll", () => this.#scrolled());
    on("focusin", () => this.#inside && this.set(false));
    document.addEventListener("selectionchange", () => this.#selected());
    new ResizeObserver(() => this.follow()).observe(scroller.firstElementChild);
    new ResizeObserver(() => this.follow()).observe(scroller);
  }

  get #inside() {
    return this.scroller.contains(document.activeElement) && document.activeElement.matches(":focus-visible");
  }

  get atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < 2;
  }

  set(pinned) {
    if (this.pinned === pinned) return;
    this.pinned = pinned;
    this.changed(pinned);
  }

  #scrolled() {
    if (this.#grabbed && !this.atEnd) this.set(false);
    else if (this.atEnd && this.scroller.scrollTop > this.last) this.set(true);
    this.last = this.scroller.scrollTop;
  }

  #selected() {
    const selection = document.getSelection();
    if (!selection.isCollapsed && this.scroller.contains(selection.anchorNode)) this.set(false);
  }

  /** Goes to the end, if it is followed. */
  follow() {
    if (this.pinned) this.scroller.scrollTop = Math.min(this.limit(), this.scroller.scrollHeight);
  }

  /** Takes hold of the end again. */
  toEnd() {
    this.set(true);
    this.follow();
  }
}
