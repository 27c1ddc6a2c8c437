// The pages of the module, by name, and the widget.
import { Explorer } from "./explorer.js";
import { Pairs } from "./pairs.js";
import { Steps } from "./steps.js";
import { Variances } from "./variances.js";

const VIEWS = { explorer: Explorer, pairs: Pairs, steps: Steps, variances: Variances };

/** Draw a page into an element. `host` has the scene, whose `view` names the page, and, where there is one, the kernel. */
export function mount(el, host) {
  return new VIEWS[host.scene.view](el, host);
}

/** The widget: the scene and the kernel come through Jupyter's model. */
function render({ model, el }) {
  const kernel = {
    send: (message) => model.send(message),
    listen: (callback) => model.on("msg:custom", callback),
    lost: (callback) => model.on("comm_live_update", callback),
  };
  const view = mount(el, { scene: model.get("scene"), kernel });
  return () => view.remove();
}

export default { render };
