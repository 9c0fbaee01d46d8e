// Patches of a picture that are hidden by painting over them: press on one and drag; pressing on a hidden one uncovers.
const begin = element => {
  const root = element.querySelector('.jh-painter');
  if (!root || root.dataset.ready) return;
  root.dataset.ready = 'yes';
  const {src, rows, columns, cells, size} = JSON.parse(root.dataset.show);
  const hidden = new Set(cells);
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = size;
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', 'paint over what the model may not see');
  root.appendChild(canvas);
  const context = canvas.getContext('2d');
  const [w, h] = [size[0] / columns, size[1] / rows];
  const image = new Image();
  const draw = () => {
    context.drawImage(image, 0, 0, size[0], size[1]);
    context.fillStyle = 'rgba(112, 120, 134, 0.93)';
    for (const cell of hidden) context.fillRect(cell % columns * w, Math.floor(cell / columns) * h, w, h);
    context.strokeStyle = 'rgba(255, 255, 255, 0.35)';
    context.lineWidth = 1;
    context.beginPath();
    for (let i = 1; i < columns; i++) { context.moveTo(i * w, 0); context.lineTo(i * w, size[1]); }
    for (let i = 1; i < rows; i++) { context.moveTo(0, i * h); context.lineTo(size[0], i * h); }
    context.stroke();
    root.dataset.hidden = hidden.size;
  };
  image.onload = draw;
  image.src = src;
  const cellAt = event => {
    const box = canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left) / box.width * columns);
    const row = Math.floor((event.clientY - box.top) / box.height * rows);
    return column >= 0 && column < columns && row >= 0 && row < rows ? row * columns + column : -1;
  };
  let covers = null;
  const paint = event => {
    const cell = cellAt(event);
    if (cell < 0) return;
    if (covers) hidden.add(cell); else hidden.delete(cell);
    draw();
  };
  canvas.addEventListener('pointerdown', event => {
    covers = !hidden.has(cellAt(event));
    canvas.setPointerCapture(event.pointerId);
    paint(event);
  });
  canvas.addEventListener('pointermove', event => { if (covers !== null) paint(event); });
  const end = () => {
    if (covers === null) return;
    covers = null;
    trigger('input', {cells: [...hidden].sort((a, b) => a - b)});
  };
  canvas.addEventListener('pointerup', end);
  canvas.addEventListener('pointercancel', end);
};
