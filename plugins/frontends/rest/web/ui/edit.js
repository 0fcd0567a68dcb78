/** Editing a message: keep the text, or send it again as another branch. */

import { enterSends } from "./composer.js";
import { button, h, panelStyles, submits } from "./dom.js";
import { say } from "./status.js";

export async function edit(view, actions) {
  if (view.node.querySelector(".editor")) return;
  await panelStyles();
  const { message, body, tools } = view;
  const mine = message.role === "user";
  const box = h("textarea", { class: "edit-box", rows: Math.min(20, message.text.split("\n").length + 1), dir: "auto",
    "aria-label": mine ? "Edit your message" : "Edit the answer", prop: { value: message.text } });
  const close = () => {
    editor.remove();
    body.hidden = tools.hidden = false;
    tools.querySelector('[data-tool="edit"]')?.focus({ preventScroll: true });
  };
  const keep = async () => {
    if (!box.value.trim()) return;
    await actions.keepEdit(view, box.value);
    close();
    say("Edit kept");
  };
  const resend = () => {
    if (!box.value.trim()) return;
    close();
    actions.fork(message, box.value);
  };
  const editor = h("div", { class: "editor" }, box, h("div", { class: "buttons" },
    button(mine ? "Send as new branch" : "Continue from here", resend, { className: "primary" }),
    button("Keep edit", keep), button("Cancel", close)));
  box.addEventListener("keydown", (event) => {
    if (submits(event, mine && enterSends())) {
      event.preventDefault();
      resend();
    } else if (event.key === "Escape") {
      event.preventDefault();
      event.stopPropagation();
      close();
    }
  });
  body.hidden = tools.hidden = true;
  body.after(editor);
  box.focus();
  box.setSelectionRange(box.value.length, box.value.length);
}
