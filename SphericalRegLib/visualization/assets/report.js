"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");

  const theme = document.querySelector("button.theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const tell = () => theme.setAttribute("aria-pressed", String(isDark()));
  theme.addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; tell(); });
  tell();

  // What the slider means in each mode: label, range, start, left and right end.
  const MODES = {
    blend: { label: "Opacity of the DRR", min: 0, max: 100, value: 50, ends: ["X-ray", "DRR"], unit: " %" },
    swipe: { label: "Divider", min: 0, max: 100, value: 50, ends: ["all DRR", "all X-ray"], unit: " %" },
    checker: { label: "Squares across", min: 2, max: 24, value: 8, ends: ["few", "many"], unit: "" },
    blink: { label: "Seconds per image", min: 3, max: 20, value: 8, ends: ["fast", "slow"], unit: " s", scale: 0.1 },
  };

  for (const viewer of document.querySelectorAll(".viewer")) {
    const stage = viewer.querySelector(".stage");
    const drr = stage.querySelector(".drr");
    const showing = stage.querySelector(".showing");
    const slider = viewer.querySelector(".slider input");
    const output = viewer.querySelector(".slider output");
    const [label, ...ends] = viewer.querySelectorAll(".slider [data-part]");
    const kept = Object.fromEntries(Object.entries(MODES).map(([name, mode]) => [name, mode.value]));
    let mode = "blend", timer = 0, shown = false;

    const draw = () => {
      const value = Number(slider.value);
      kept[mode] = value;
      const scaled = MODES[mode].scale ? (value * MODES[mode].scale).toFixed(1) : value;
      output.textContent = scaled + MODES[mode].unit;
      slider.setAttribute("aria-valuetext", output.textContent);
      clearInterval(timer);
      drr.style.cssText = "opacity: 1";
      showing.hidden = mode !== "blink";
      if (mode === "blend") drr.style.opacity = value / 100;
      if (mode === "swipe") drr.style.clipPath = `inset(0 0 0 ${value}%)`;
      if (mode === "checker") {
        const tile = (2 * stage.clientWidth) / value + "px";
        const board = "conic-gradient(transparent 25%, #000 0 50%, transparent 0 75%, #000 0)";
        Object.assign(drr.style, { maskImage: board, webkitMaskImage: board, maskSize: `${tile} ${tile}`, webkitMaskSize: `${tile} ${tile}` });
      }
      if (mode === "blink") {
        const turn = () => { shown = !shown; drr.style.opacity = Number(shown); showing.textContent = shown ? "DRR" : "X-ray"; };
        turn();
        timer = setInterval(turn, value * 100);
      }
    };
    const choose = (name) => {
      mode = name;
      const { label: text, min, max, ends: [left, right] } = MODES[name];
      label.textContent = text;
      ends[0].textContent = left;
      ends[1].textContent = right;
      slider.min = min;
      slider.max = max;
      slider.value = kept[name];
      draw();
    };
    slider.addEventListener("input", draw);
    addEventListener("resize", draw);
    for (const input of viewer.querySelectorAll(".modes input")) input.addEventListener("change", () => choose(input.value));
    for (const box of viewer.querySelectorAll(".ticks input")) {
      const apply = () => {
        if (box.dataset.layer) stage.querySelector("." + box.dataset.layer).hidden = !box.checked;
        else stage.classList.toggle("invert", box.checked);
      };
      box.addEventListener("change", apply);
      apply();
    }
    if (stage.querySelector(".xray")) {
      // On the image itself: drag sideways to move the slider.
      stage.addEventListener("pointermove", (event) => {
        if (event.buttons !== 1) return;
        const share = event.offsetX / stage.clientWidth;
        slider.value = Number(slider.min) + share * (slider.max - slider.min);
        draw();
      });
      stage.addEventListener("dragstart", (event) => event.preventDefault());
    }
    choose((viewer.querySelector(".modes input:checked") || { value: "blend" }).value);
  }

  for (const table of document.querySelectorAll("table.cases")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const value = (row) => { const td = row.cells[column]; return td.dataset.sort === undefined ? td.textContent : td.dataset.sort; };
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = cell.textContent;
      cell.replaceChildren(button);
      button.addEventListener("click", () => {
        const direction = cell.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
        const number = (text) => (text.trim() === "" || isNaN(text) ? NaN : Number(text));
        const compare = (a, b) => {
          const [x, y] = [value(a), value(b)];
          const [m, n] = [number(x), number(y)];
          if (isNaN(m) && isNaN(n)) return x.localeCompare(y, undefined, { numeric: true });
          return isNaN(m) ? direction : isNaN(n) ? -direction : m - n;
        };
        [...body.rows].sort((a, b) => direction * compare(a, b)).forEach((row) => body.append(row));
      });
    });
  }
})();
