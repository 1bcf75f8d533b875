// Shows which part of the input the chosen unit of a feature map depends on.
'use strict';
for (const maps of document.querySelectorAll('.maps')) {
  const number = (name) => Number(maps.dataset[name]);
  const [height, width, shown, columns, scale, gap] =
    ['height', 'width', 'shown', 'columns', 'scale', 'gap'].map(number);
  const mark = maps.querySelector('.mark');
  const unit = maps.closest('.sheet').querySelector('.unit');
  const input = document.getElementById(maps.dataset.input);
  const field = input.querySelector('.field');
  const [cellWidth, cellHeight] = [width * scale + gap, height * scale + gap];
  let chosen = null;

  const place = (element, left, top, right, bottom) => {
    Object.assign(element.style, { left, top, width: right, height: bottom });
    element.hidden = false;
  };

  function choose(channel, row, column) {
    chosen = { channel, row, column };
    const left = gap + (channel % columns) * cellWidth + column * scale;
    const top = gap + Math.floor(channel / columns) * cellHeight + row * scale;
    const zoom = maps.querySelector('img').getBoundingClientRect().width / number('sheet');
    const pixels = (value) => `${value * zoom}px`;
    place(mark, pixels(left), pixels(top), pixels(scale), pixels(scale));
    const where = height * width > 1 ? ` row ${row}, column ${column}` : '';
    if (!('size' in maps.dataset)) {
      unit.textContent = `Channel ${channel}${where}: depends on the whole picture.`;
      place(field, '0%', '0%', '100%', '100%');
      return;
    }
    const [size, step, start] = ['size', 'step', 'start'].map(number);
    const [sideX, sideY] = [Number(input.dataset.width), Number(input.dataset.height)];
    const range = (index, side) => [Math.max(0, start + index * step), Math.min(side, start + index * step + size)];
    const [x0, x1] = range(column, sideX);
    const [y0, y1] = range(row, sideY);
    const share = (value, side) => `${(100 * value) / side}%`;
    place(field, share(x0, sideX), share(y0, sideY), share(x1 - x0, sideX), share(y1 - y0, sideY));
    unit.textContent = `Channel ${channel}${where}: sees rows ${y0} to ${y1 - 1}, columns ${x0} to ${x1 - 1}.`;
  }

  maps.addEventListener('pointermove', at);
  maps.addEventListener('pointerdown', at);
  function at(event) {
    const box = maps.querySelector('img').getBoundingClientRect();
    const zoom = number('sheet') / box.width;
    const [x, y] = [(event.clientX - box.left) * zoom - gap, (event.clientY - box.top) * zoom - gap];
    const [cellX, cellY] = [Math.floor(x / cellWidth), Math.floor(y / cellHeight)];
    const column = Math.floor((x - cellX * cellWidth) / scale);
    const row = Math.floor((y - cellY * cellHeight) / scale);
    const channel = cellY * columns + cellX;
    const inside = cellX >= 0 && cellX < columns && cellY >= 0 && row < height && column < width;
    if (inside && channel < shown) choose(channel, row, column);
  }

  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  maps.addEventListener('keydown', (event) => {
    const step = steps[event.key];
    const other = { PageDown: 1, PageUp: -1 }[event.key];
    if (!step && !other) return;
    event.preventDefault();
    const now = chosen || { channel: 0, row: 0, column: 0 };
    const clamp = (value, end) => Math.min(Math.max(value, 0), end - 1);
    const single = height * width === 1;
    const move = other || (single && step ? step[0] * columns + step[1] : 0);
    const [down, right] = single || !step ? [0, 0] : step;
    choose(clamp(now.channel + move, shown), clamp(now.row + down, height), clamp(now.column + right, width));
  });
  maps.addEventListener('focus', () => choose(...Object.values(chosen || { channel: 0, row: 0, column: 0 })));
  maps.addEventListener('pointerleave', clear);
  maps.addEventListener('blur', clear);
  function clear() {
    if (document.activeElement === maps) return;
    mark.hidden = field.hidden = true;
    unit.textContent = '';
  }
}
