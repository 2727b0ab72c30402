// Draws skeletons as tools/demo does: limbs with a dark edge, light joints.

/** people (N, K, 3) in pixels of the canvas, the first in front; limbs: pairs of joints. */
export function drawPeople(context, people, limbs) {
  context.lineCap = "round";
  people.map((person, i) => [person, i]).reverse().forEach(([person, i]) => {
    drawSkeleton(context, person, limbs, (i * 137.5) % 360);
  });
}

function drawSkeleton(context, person, limbs, hue) {
  const visible = person.filter((joint) => joint[2] > 0);
  const extent = (axis) => {
    const places = visible.map((joint) => joint[axis]);
    return Math.max(...places) - Math.min(...places);
  };
  const { width, height } = context.canvas;
  const largest = Math.min(width, height) / 60 + 1;
  const unit = Math.min(Math.max(Math.max(extent(0), extent(1)) / 60, 1.5), largest);
  const lines = limbs
    .map(([a, b]) => [person[a], person[b]])
    .filter(([a, b]) => a[2] > 0 && b[2] > 0);
  const dots = visible.map((joint) => [joint, joint]);
  stroke(context, lines, 2.2 * unit, `hsl(${hue} 90% 14%)`);
  stroke(context, lines, 1.1 * unit, `hsl(${hue} 95% 56%)`);
  stroke(context, dots, 3.0 * unit, `hsl(${hue} 90% 14%)`);
  stroke(context, dots, 1.9 * unit, "white");
}

function stroke(context, lines, width, style) {
  context.lineWidth = width;
  context.strokeStyle = style;
  context.beginPath();
  for (const [from, to] of lines) {
    context.moveTo(from[0] + 0.5, from[1] + 0.5); // 0, 0 is the center of the first pixel
    context.lineTo(to[0] + 0.5, to[1] + 0.5);
  }
  context.stroke();
}
