// From the pixels of an image to the network's input, and from its outputs to people:
// tools/device_runner.py in JavaScript. Both give the same numbers, so `f32` rounds wherever NumPy
// computes in float32, and ties are broken alike.
//
// A tensor is {data, dims}, as ONNX Runtime returns it. K joints, M candidates each, L tags each.

const f32 = Math.fround;
const MAX_SIDE = 4096; // of the input; the runner, which has more memory, takes longer ones
const EARLIER_FIRST = 1e-9; // cost that prefers people who were found earlier

/**
 * The network's input with the image in its center, black around it.
 * image: {width, height, data}, RGBA of 8 bits. side: of an input of any size, in pixels.
 * Returns {data, width, height, ratio, center}: RGB of 8 bits, its pixels per image pixel, and its
 * center in the image.
 */
export function prepare(card, image, side = card.input.side) {
  const { size: fixed, multiple_of: multiple, scale_type: scaleType } = card.input;
  const sides = [image.width, image.height];
  const scaled = scaleType === "short" ? Math.min(...sides) : Math.max(...sides);
  const ratio = fixed ? Math.min(fixed[0] / sides[0], fixed[1] / sides[1]) : side / scaled;
  const roundUp = (length) => Math.floor((length + multiple - 1) / multiple) * multiple;
  const [width, height] = fixed ?? sides.map((length) => roundUp(ratio * length));
  if (Math.max(width, height) > MAX_SIDE) {
    throw new Error(`${sides.join(" x ")} pixels become an input of ${width} x ${height}`);
  }
  const center = sides.map((length) => Math.floor(length / 2 + 0.5));
  const shift = card.pixel_center;
  const place = (i, length, middle) => (i + shift - length / 2) / ratio + middle - shift;
  const columns = neighbors(width, sides[0], (i) => place(i, width, center[0]));
  const rows = neighbors(height, sides[1], (i) => place(i, height, center[1]));
  return { data: resize(image, columns, rows), width, height, ratio, center };
}

/** Of `count` places along an axis: the two pixels next to each, and their shares. */
function neighbors(count, length, placeOf) {
  const result = { first: [], second: [], share: new Float32Array(2 * count) };
  const clip = (i) => Math.min(Math.max(i, 0), length - 1);
  const share = (i, value) => (i >= 0 && i < length ? value : 0); // black beyond the border
  for (let i = 0; i < count; i++) {
    const at = placeOf(i);
    const first = Math.floor(at);
    result.first.push(clip(first));
    result.second.push(clip(first + 1));
    result.share[2 * i] = share(first, first + 1 - at);
    result.share[2 * i + 1] = share(first + 1, at - first);
  }
  return result;
}

/** Bilinear interpolation: of two rows of the image first, then of two columns. */
function resize(image, columns, rows) {
  const [width, height] = [columns.first.length, rows.first.length];
  const line = new Float32Array(4 * image.width); // RGBA
  const pixels = new Uint8ClampedArray(3 * width * height); // rounds halves to even, like NumPy
  for (let y = 0, out = 0; y < height; y++) {
    const [above, below] = [rows.first[y], rows.second[y]].map((row) => 4 * image.width * row);
    const [one, other] = rows.share.subarray(2 * y, 2 * y + 2);
    for (let i = 0; i < line.length; i++) {
      line[i] = f32(image.data[above + i] * one) + f32(image.data[below + i] * other);
    }
    for (let x = 0; x < width; x++) {
      const [left, right] = [4 * columns.first[x], 4 * columns.second[x]];
      const [near, far] = [columns.share[2 * x], columns.share[2 * x + 1]];
      for (let c = 0; c < 3; c++) {
        pixels[out++] = f32(f32(line[left + c] * near) + f32(line[right + c] * far));
      }
    }
  }
  return new Uint8Array(pixels.buffer);
}

/**
 * People in pixels of the image, the best first: {people, scores, isFull}; people (N, K, 3) as
 * nested arrays of x, y, score, all 0 where a joint is missing; isFull: there may be more people.
 * prepared: what `prepare` returned. outputs: the network's tensors, in the order of the card.
 */
export function findPeople(card, prepared, outputs) {
  const { data } = outputs.at(-2); // values of all pixels, or again of the candidates
  if (![outputs[1].data, outputs[2].data, data].every(isFinite)) {
    throw new Error("the network's maps are not finite");
  }
  const people = group(card.grouping, ...outputs.slice(0, 3));
  const count = card.grouping.joint_order.length;
  const scoreOf = (person) => f32(person.reduce((sum, joint) => sum + joint[2], 0) / count);
  const scored = people.map((person) => ({ person, score: scoreOf(person) }));
  if (card.grouping.refine) fillMissing(people, ...outputs.slice(-3));
  scored.sort((a, b) => b.score - a.score);
  return {
    people: scored.map(({ person }) => toImage(person, prepared, card.pixel_center)),
    scores: scored.map(({ score }) => score),
    isFull: isFull(card.grouping.detection_threshold, outputs[1]),
  };
}

/** Whether the weakest candidate of a joint, the last of (1, K, M), is above the threshold. */
function isFull(threshold, { dims: [, , count], data }) {
  return data.some((value, i) => (i + 1) % count === 0 && value > f32(threshold));
}

/** Whether all numbers are finite: NaN and infinity survive a sum. */
function isFinite(numbers) {
  let sum = 0;
  for (let i = 0; i < numbers.length; i++) sum += numbers[i];
  return Number.isFinite(sum);
}

function toImage(person, { width, height, ratio, center }, shift) {
  const place = (at, length, middle) => f32((at - length / 2) / ratio + middle - shift);
  return person.map(([x, y, score]) =>
    score > 0 ? [place(x, width, center[0]), place(y, height, center[1]), score] : [0, 0, 0],
  );
}

/**
 * Joints of like tags become a person: an array of K joints [x, y, value, ...tags], zeros where
 * one is missing. positions (1, K, M, 2), values (1, K, M), tags (1, K, M, L).
 */
export function group(rules, positions, values, tags) {
  const [, numJoints, , numTags] = tags.dims;
  const threshold = f32(rules.detection_threshold);
  const people = [];
  const sums = []; // for each person: of its tags, and last their number
  const personOf = new Map(); // by the first tag of a person's first joint
  for (const joint of rules.joint_order) {
    const rows = candidatesOf(joint, positions, values, tags).filter((row) => row[2] > threshold);
    const known = sums.slice(0, rules.max_people);
    const means = known.map((sum) => sum.slice(0, -1).map((value) => value / sum[numTags]));
    const distance = rows.map((row) => means.map((mean) => norm(mean, row)));
    const cost = distance.map((near, i) =>
      near.map((value, j) => {
        const base = rules.use_detection_val ? rint(value) * 100 - rows[i][2] : value;
        return base + EARLIER_FIRST * (rows.length - i) * j;
      }),
    );
    const assigned = assign(cost, known.length);
    rows.forEach((row, i) => {
      let who = assigned[i];
      if (who < 0 || distance[i][who] >= rules.tag_threshold) {
        if (!personOf.has(row[3])) {
          personOf.set(row[3], people.length);
          people.push(Array.from({ length: numJoints }, () => new Array(3 + numTags).fill(0)));
        }
        who = personOf.get(row[3]);
        sums[who] = new Array(numTags + 1).fill(0);
      }
      people[who][joint] = row;
      [...row.slice(3), 1].forEach((value, l) => (sums[who][l] += value));
    });
  }
  return people;
}

/** The M candidates of a joint: [x, y, value, ...tags]. */
function candidatesOf(joint, positions, values, tags) {
  const [, , count, numTags] = tags.dims;
  return Array.from({ length: count }, (_, m) => {
    const i = joint * count + m;
    const tag = tags.data.subarray(i * numTags, (i + 1) * numTags);
    return [positions.data[2 * i], positions.data[2 * i + 1], values.data[i], ...tag];
  });
}

/** Distance between the tags of a candidate and a person's mean tags. */
function norm(mean, row) {
  return Math.sqrt(mean.reduce((sum, value, l) => sum + square(row[3 + l] - value), 0));
}

const square = (value) => value * value;

/** The nearest integer, of two the even one. */
function rint(value) {
  const rounded = Math.round(value); // halves go up
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded;
}

/**
 * For each row of `cost` (n rows of `columns` numbers) a column, each at most once, at the least
 * total cost; -1: no column left. By shortest paths to free columns (Jonker & Volgenant 1987), in
 * the order of computation of the runner: equal costs must end alike.
 */
export function assign(cost, columns) {
  const count = 1 + Math.max(columns, cost.length); // column 0 is for a row's start
  const padded = cost.map((row) => [0, ...row, ...new Array(count - 1 - columns).fill(0)]);
  const rowOf = new Array(count).fill(-1); // the row that holds a column
  const rowPrice = new Array(cost.length).fill(0);
  const price = new Array(count).fill(0); // of a column
  for (let start = 0; start < cost.length; start++) {
    rowOf[0] = start;
    const length = new Array(count).fill(Infinity); // of the shortest path to a column
    const before = new Array(count).fill(0); // the column before it on this path
    const done = new Array(count).fill(false);
    let end = 0;
    length[0] = 0;
    while (rowOf[end] >= 0) {
      done[end] = true;
      const row = rowOf[end];
      let nearest = -1;
      for (let j = 0; j < count; j++) {
        if (done[j]) continue;
        const path = length[end] + padded[row][j] - rowPrice[row] - price[j];
        if (path < length[j]) [length[j], before[j]] = [path, end];
        if (nearest < 0 || length[j] < length[nearest]) nearest = j;
      }
      end = nearest;
    }
    for (let j = 0; j < count; j++) {
      if (!done[j]) continue;
      rowPrice[rowOf[j]] += length[end] - length[j];
      price[j] -= length[end] - length[j];
    }
    while (end > 0) [rowOf[end], end] = [rowOf[before[end]], before[end]]; // shift along the path
  }
  return cost.map((_, row) => {
    const column = rowOf.indexOf(row, 1) - 1;
    return column < columns ? column : -1;
  });
}

/** Add the joints that people lack, in place: the candidate, or any pixel, that fits best. */
export function fillMissing(people, positions, values, tags) {
  const [, , count, numTags] = tags.dims;
  for (const person of people) {
    const found = person.filter((joint) => joint[2] > 0);
    const mean = Array.from({ length: numTags }, (_, l) =>
      f32(f32(found.reduce((sum, joint) => sum + joint[3 + l], 0)) / found.length),
    );
    person.forEach((joint, k) => {
      if (joint[2] > 0) return;
      const best = bestFit(k * count, count, mean, values.data, tags.data);
      if (values.data[best] <= 0) return;
      const [x, y] = positions.data.subarray(2 * best, 2 * best + 2);
      person[k] = [x, y, values.data[best], ...mean];
    });
  }
}

/** Of `count` candidates from `start`: the largest value minus rounded distance of tags. */
function bestFit(start, count, mean, values, tags) {
  let [best, largest] = [start, -Infinity];
  for (let i = start; i < start + count; i++) {
    if (values[i] <= largest) continue; // most of them: the distance only lowers it
    let sum = 0;
    for (let l = 0; l < mean.length; l++) {
      sum = f32(sum + f32(square(f32(tags[i * mean.length + l] - mean[l]))));
    }
    const fit = f32(values[i] - rint(f32(Math.sqrt(sum))));
    if (fit > largest) [best, largest] = [i, fit];
  }
  return best;
}
