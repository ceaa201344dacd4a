// What a person would see wrong on a page: returns lists of words, each empty on a good page.
(smallest) => {
  const wide = document.documentElement.clientWidth;
  const visible = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest("title, desc, style") || !visible(parent)) continue;
    if (parent.closest("thead") && getComputedStyle(parent.closest("thead")).position === "absolute") continue;
    texts.push({ node, parent });
  }
  const scrolls = (element) => element.closest(".wide");
  const shown = (text) => text.trim().slice(0, 40);

  const overflow = document.documentElement.scrollWidth > wide ? [`the page is ${document.documentElement.scrollWidth} wide`] : [];
  for (const { node, parent } of texts) {
    if (scrolls(parent)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect();
    if (box.right > wide + 1 || box.left < -1) overflow.push(shown(node.data));
  }

  const scale = (element) => {
    const svg = element.closest("svg");
    return svg ? Math.hypot(svg.getScreenCTM().a, svg.getScreenCTM().b) : element.currentCSSZoom;
  };
  const small = [];
  for (const { node, parent } of texts) {
    const size = parseFloat(getComputedStyle(parent).fontSize) * scale(parent);
    if (size < smallest) small.push(`${size.toFixed(1)}px: ${shown(node.data)}`);
  }

  // Letters over letters, by the middle part of each line: lines may touch.
  const boxes = [];
  for (const { node, parent } of texts) {
    const range = document.createRange();
    range.selectNodeContents(node);
    const rects = parent.closest("svg") ? [parent.getBoundingClientRect()] : [...range.getClientRects()];
    for (const rect of rects) {
      if (rect.width < 1 || rect.height < 1) continue;
      const margin = Math.min(rect.height, rect.width) * 0.2;
      boxes.push({ x0: rect.left + 1, x1: rect.right - 1, y0: rect.top + margin, y1: rect.bottom - margin, text: shown(node.data), node });
    }
  }
  boxes.sort((a, b) => a.y0 - b.y0);
  const overlap = [];
  for (let i = 0; i < boxes.length; i++) {
    for (let j = i + 1; j < boxes.length && boxes[j].y0 < boxes[i].y1; j++) {
      const [a, b] = [boxes[i], boxes[j]];
      if (a.node !== b.node && a.x0 < b.x1 && b.x0 < a.x1) overlap.push(`${a.text} | ${b.text}`);
    }
  }

  const broken = [];
  for (const { node, parent } of texts) {
    if (parent.closest("svg, code, h1, .notice")) continue;
    // A digest is no word.
    for (const match of node.data.matchAll(/[^\s\u2010-\u2015/-]+/g)) {
      if (/^[0-9a-f]{40,}$/.test(match[0])) continue;
      const range = document.createRange();
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      const lines = new Set([...range.getClientRects()].map((rect) => Math.round(rect.top)));
      if (lines.size > 1) broken.push(match[0]);
    }
  }

  // Pictures: letters and background by the formula of WCAG 2.
  const channels = (colour) => colour.match(/[\d.]+/g).slice(0, 3).map(Number);
  const luminance = (colour) => channels(colour).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  const paper = getComputedStyle(document.documentElement).backgroundColor;
  const faint = [];
  for (const { node, parent } of texts) {
    if (!parent.closest("svg") || parent.closest("svg").getAttribute("aria-labelledby").startsWith("confusion")) continue;
    const [one, other] = [luminance(getComputedStyle(parent).fill), luminance(paper)];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) faint.push(`${contrast.toFixed(1)}: ${shown(node.data)}`);
  }

  const outside = [];
  for (const svg of document.querySelectorAll("svg")) {
    const frame = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (box.left < frame.left - 2 || box.right > frame.right + 2 || box.top < frame.top - 2 || box.bottom > frame.bottom + 2)
        outside.push(shown(text.textContent));
    }
  }
  return { problems: { overflow, small, overlap, broken, faint, outside }, paper };
}
