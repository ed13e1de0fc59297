// Follow an order: ask for its status, and fetch the page's part anew whenever that has changed.
(() => {
  "use strict";
  const place = document.getElementById("journey");
  if (!place) return;
  const { status, page } = place.dataset;
  // Spans of the last step arrive a moment after it, so go on looking for a while.
  const lastLooks = 8;
  let seen = "";
  let looks = 0;

  const refresh = async () => {
    const answer = await fetch(page);
    if (answer.ok) place.innerHTML = await answer.text();
  };

  const look = async () => {
    let pause = 500;
    try {
      const answer = await fetch(status, { headers: { accept: "application/json" } });
      const text = answer.ok ? await answer.text() : seen;
      if (text !== seen) {
        seen = text;
        looks = 0;
        await refresh();
      }
      if (text && JSON.parse(text).is_over && ++looks > lastLooks) return;
    } catch (error) {
      pause = 2000; // The shop is away; the page stays as it is.
    }
    setTimeout(look, document.hidden ? 5000 : pause);
  };
  look();
})();
