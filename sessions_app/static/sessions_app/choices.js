// For whom and by which way the next call is: the tenant, and one of the ways that it may use.
import { part } from "./page.js";

const tenant = part("tenant"); // a list, or a hidden field where there is only one
const way = part("way");
const ways = JSON.parse(document.getElementById("ways").textContent); // by tenant: [{label, transport, backend}]

function offer() {
  const offered = ways[tenant.value] ?? [];
  way.replaceChildren(...offered.map(({ label }, index) => new Option(label, String(index))));
  part("way-field").hidden = offered.length < 2;
}

/** @returns {{form: FormData, wish: object}} what is chosen now: for the pass, and for session.start */
export function choice() {
  const { transport, backend } = ways[tenant.value]?.[Number(way.value)] ?? {};
  return { form: new FormData(part("form")), wish: { ...(transport && { transport }), ...(backend && { backend }) } };
}

tenant.addEventListener("change", offer);
offer();
