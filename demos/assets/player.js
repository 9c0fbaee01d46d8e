const NS = 'http://www.w3.org/2000/svg';
const make = (tag, attributes = {}, parent = null, svg = false) => {
  const node = svg ? document.createElementNS(NS, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (parent) parent.appendChild(node);
  return node;
};

// The curves: an SVG whose cursor is moved by the player, and which moves the player when it is touched.
const chart = (show, parent, seek) => {
  const [W, H, L, R, T, B] = [640, 190, 52, 12, 12, 30];
  const times = show.curves.flatMap(c => c.points.map(p => p[0])).concat(show.seconds);
  const values = show.curves.flatMap(c => c.points.map(p => p[1])).filter(v => v !== null);
  const [t0, t1] = [Math.min(...times), Math.max(...times)];
  let [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  [low, high] = [low - room, high + room];
  const x = t => L + (W - L - R) * (t - t0) / (t1 - t0 || 1);
  const y = v => T + (H - T - B) * (1 - (v - low) / (high - low));
  const svg = make('svg', {viewBox: `0 0 ${W} ${H}`, class: 'jh-chart', role: 'img', 'aria-label': show.value + ' over time'}, parent, true);
  if (show.seen !== null) {
    make('rect', {x: L, y: T, width: Math.max(0, x(show.seen) - L), height: H - T - B, class: 'jh-seen'}, svg, true);
    make('text', {x: L + 6, y: H - B - 6, class: 'jh-seen-text'}, svg, true).textContent = 'seen';
  }
  for (let i = 0; i < 4; i++) {
    const v = low + (high - low) * (i + 0.5) / 4;
    make('line', {x1: L, x2: W - R, y1: y(v), y2: y(v), class: 'jh-grid'}, svg, true);
    make('text', {x: L - 6, y: y(v) + 4, 'text-anchor': 'end'}, svg, true).textContent = v.toPrecision(3);
  }
  for (let i = 0; i < 5; i++) {
    const t = t0 + (t1 - t0) * i / 4;
    make('text', {x: x(t), y: H - 8, 'text-anchor': i === 4 ? 'end' : i ? 'middle' : 'start'}, svg, true).textContent = t.toFixed(2) + ' s';
  }
  for (const [t, words] of show.marks) {
    make('line', {x1: x(t), x2: x(t), y1: T, y2: H - B, class: 'jh-mark'}, svg, true);
    const right = x(t) > W * 0.7;
    make('text', {x: x(t) + (right ? -6 : 6), y: T + 10, 'text-anchor': right ? 'end' : 'start', class: 'jh-mark-text'}, svg, true).textContent = words;
  }
  for (const curve of show.curves) {
    let path = '', pen = false;
    for (const [t, v] of curve.points) {
      if (v === null) { pen = false; continue; }
      path += `${pen ? 'L' : 'M'}${x(t).toFixed(1)} ${y(v).toFixed(1)}`;
      pen = true;
      make('circle', {cx: x(t), cy: y(v), r: 3, class: `jh-dot jh-${curve.tone}`}, svg, true);
    }
    make('path', {d: path, class: `jh-line jh-${curve.tone}`}, svg, true);
  }
  const cursor = make('line', {x1: L, x2: L, y1: T, y2: H - B, class: 'jh-cursor'}, svg, true);
  const point = event => {
    const box = svg.getBoundingClientRect();
    const t = t0 + (t1 - t0) * ((event.clientX - box.left) / box.width * W - L) / (W - L - R);
    const near = show.seconds.map(s => Math.abs(s - t));
    seek(near.indexOf(Math.min(...near)));
  };
  svg.addEventListener('pointerdown', event => { point(event); svg.setPointerCapture(event.pointerId); });
  svg.addEventListener('pointermove', event => { if (event.buttons) point(event); });
  if (show.curves.length > 1) {
    const legend = make('div', {class: 'jh-legend'}, parent);
    for (const curve of show.curves) make('span', {class: `jh-${curve.tone}`}, legend).textContent = curve.title;
  }
  return frame => { cursor.setAttribute('x1', x(show.seconds[frame])); cursor.setAttribute('x2', x(show.seconds[frame])); };
};

const start = element => {
  const root = element.querySelector('.jh-player');
  if (!root || root.dataset.ready) return;
  root.dataset.ready = 'yes';
  const show = JSON.parse(root.dataset.show);
  const count = show.seconds.length;
  const films = make('div', {class: 'jh-films'}, root);
  const drawn = show.films.map(film => {
    const figure = make('figure', {}, films);
    const [width, height] = film.size;
    const canvas = make('canvas', {width, height, role: 'img', 'aria-label': film.title}, figure);
    make('figcaption', {}, figure).textContent = film.title;
    const image = new Image();
    image.onload = () => seek(frame);
    image.src = film.src;
    return {canvas, image, width, height};
  });
  let frame = 0, timer = null, move = () => {};
  const bar = make('div', {class: 'jh-bar'}, root);
  const button = make('button', {type: 'button', 'aria-label': 'play or pause'}, bar);
  const slider = make('input', {type: 'range', min: 0, max: count - 1, value: 0, 'aria-label': 'frame'}, bar);
  const clock = make('output', {}, bar);
  const seek = wanted => {
    frame = Math.max(0, Math.min(count - 1, wanted));
    for (const {canvas, image, width, height} of drawn) {
      if (!image.complete) continue;
      const [column, row] = [frame % show.columns, Math.floor(frame / show.columns)];
      canvas.getContext('2d').drawImage(image, column * width, row * height, width, height, 0, 0, width, height);
    }
    slider.value = frame;
    root.dataset.frame = frame;
    clock.textContent = show.seconds[frame].toFixed(2) + ' s';
    move(frame);
  };
  const pause = () => { clearInterval(timer); timer = null; button.textContent = '▶'; };
  const play = () => {
    pause();
    const length = (show.seconds[count - 1] - show.seconds[0]) / Math.max(1, count - 1) || 0.125;
    button.textContent = '❚❚';
    timer = setInterval(() => {
      if (!root.isConnected) return clearInterval(timer);
      if (root.offsetParent) seek((frame + 1) % count);
    }, Math.max(60, Math.min(500, 1000 * length)));
  };
  button.addEventListener('click', () => timer ? pause() : play());
  slider.addEventListener('input', () => { pause(); seek(Number(slider.value)); });
  if (show.curves.length) move = chart(show, root, wanted => { pause(); seek(wanted); });
  seek(0);
  if (window.matchMedia('(prefers-reduced-motion: reduce)').matches) pause(); else play();
};
