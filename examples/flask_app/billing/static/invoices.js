// Fetch the list anew every now and then, and leave it alone while somebody is busy in it.
(() => {
  "use strict";
  const place = document.getElementById("invoices");
  const pause = 2000;

  const refresh = async () => {
    const answer = await fetch(location.href);
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("invoices");
    const busy = place.contains(document.activeElement) || String(getSelection());
    if (!busy && fresh.innerHTML !== place.innerHTML) place.innerHTML = fresh.innerHTML;
  };

  setInterval(() => {
    if (!document.hidden) refresh().catch(() => {});  // away; the page stays as it is
  }, pause);
})();
