/** What the server is: model, limits, build, key. */

import { apiKey } from "./api.js";
import { button, count, h } from "./dom.js";
import { server } from "./state.js";
import { toast } from "./status.js";

export function fill(panel) {
  const { props, state } = server.value;
  if (!props && state === "locked") {
    return panel.append(h("p", { text: "The server wants an API key." }), button("Give the key", () => server.set({ state: "locked" }), { className: "small bordered" }));
  }
  if (!props) return panel.append(h("p", { class: "problem", text: "The server does not answer." }));
  const { model, model_path: file, file_type: type, n_ctx: nCtx, n_ctx_train: trained, chat, infill, grammar, build, limits = {} } = props;
  const yes = (value) => (value ? "yes" : "no");
  const rows = [["State", state], ["Model", model], ["File", file], ["Type", type], ["Context", nCtx && `${count(nCtx)} tokens`], ["Trained with", trained && `${count(trained)} tokens`],
    ["Chat template", yes(chat)], ["Fill in the middle", yes(infill)], ["Grammars", yes(grammar)], ["Longest answer", limits.max_predict && `${count(limits.max_predict)} tokens`],
    ["At a time", limits.parallel && `${limits.parallel} answers`], ["Queue", limits.queue && `${limits.queue} requests`], ["Version", build]];
  panel.append(h("dl", { class: "facts" }, ...rows.filter(([, value]) => value).flatMap(([name, value]) => [h("dt", { text: name }), h("dd", { text: String(value) })])));
  if (props.key_required || apiKey.get()) {
    panel.append(button("Change the API key", () => import("./dialog.js").then(({ askForKey }) => askForKey(false, () => location.reload())), { className: "small bordered" }),
      button("Forget the API key", () => {
        apiKey.forget();
        toast("The API key is forgotten");
      }, { className: "small bordered" }));
  }
  return panel.append(h("p", { class: "muted" }, h("a", { href: "docs", target: "_blank", rel: "noopener", text: "The server's API" })));
}
