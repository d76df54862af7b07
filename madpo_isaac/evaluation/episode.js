"use strict";
// Shows an episode: meshes on bodies, the bodies' poses over time, and rewards. Units are SI, z is
// up, quaternions are (w, x, y, z), and matrices are lists by columns, as WebGL takes them.

const SUN = [0.35, -0.4, 0.85]; // where the light comes from
const SKY = [0.86, 0.91, 0.96];
const SMOOTH = Math.cos(0.7); // faces that meet at a smaller angle, radians, look like one surface

// Numbers ---------------------------------------------------------------------------------------

function decode(text, Kind) {
  return new Kind(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

// A number in three digits or more, whatever its size.
function short(x, digits = 3) {
  if (x === 0) return "0";
  return Math.abs(x) < 1e-3 ? x.toExponential(1) : x.toPrecision(digits);
}

const minus = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const along = (a, b, t) => [a[0] + t * b[0], a[1] + t * b[1], a[2] + t * b[2]];

function cross(a, b) {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}

function unit(a) {
  const length = Math.hypot(...a) || 1;
  return a.map((x) => x / length);
}

function multiply(a, b) {
  const out = new Float32Array(16);
  for (let column = 0; column < 4; column++)
    for (let row = 0; row < 4; row++)
      for (let k = 0; k < 4; k++) out[4 * column + row] += a[4 * k + row] * b[4 * column + k];
  return out;
}

function rigid(pos, quat) {
  const [w, x, y, z] = unit(quat);
  return [
    ...[1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y), 0],
    ...[2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x), 0],
    ...[2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y), 0],
    ...[...pos, 1],
  ];
}

// The pose of a body at a time in steps, between two frames if need be.
function pose(poses, bodies, body, time) {
  const last = poses.length / (7 * bodies) - 1;
  const k = Math.min(Math.floor(time), last), t = Math.min(time - k, 1);
  const a = poses.subarray(7 * (k * bodies + body)).subarray(0, 7);
  const b = poses.subarray(7 * (Math.min(k + 1, last) * bodies + body)).subarray(0, 7);
  const side = a[3] * b[3] + a[4] * b[4] + a[5] * b[5] + a[6] * b[6] < 0 ? -1 : 1;
  const mixed = [...a].map((x, i) => (1 - t) * x + t * (i < 3 ? 1 : side) * b[i]);
  return [mixed.slice(0, 3), mixed.slice(3)];
}

// MuJoCo's free camera: a point looked at, a distance, and two angles in degrees.
function axes(camera) {
  const [a, e] = [camera.azimuth, camera.elevation].map((x) => (x * Math.PI) / 180);
  const forward = [Math.cos(e) * Math.cos(a), Math.cos(e) * Math.sin(a), Math.sin(e)];
  const right = [Math.sin(a), -Math.cos(a), 0];
  const eye = along(camera.lookat, forward, -camera.distance);
  return { forward, right, up: cross(right, forward), eye };
}

// The matrix from the world to the screen.
function projection(camera, aspect) {
  const { forward, right, up, eye } = axes(camera);
  const near = 0.02 * camera.distance, far = 100 * camera.distance;
  const scale = 1 / Math.tan((camera.fovy * Math.PI) / 360);
  const lens = [
    ...[scale / aspect, 0, 0, 0],
    ...[0, scale, 0, 0],
    ...[0, 0, (far + near) / (near - far), -1],
    ...[0, 0, (2 * far * near) / (near - far), 0],
  ];
  const turn = [0, 1, 2].flatMap((i) => [right[i], up[i], -forward[i], 0]);
  return multiply(lens, [...turn, -dot(right, eye), -dot(up, eye), dot(forward, eye), 1]);
}

// Corners of triangles, each with its normal: six numbers a corner. Edges that are sharp stay so.
function corners(mesh) {
  const raw = decode(mesh.vertices, Uint16Array);
  const faces = decode(mesh.faces, mesh.wide ? Uint32Array : Uint16Array);
  const vertices = [];
  for (let v = 0; v < raw.length; v += 3)
    vertices.push([0, 1, 2].map((i) => mesh.low[i] + mesh.step[i] * raw[v + i]));
  const normals = [], around = vertices.map(() => []);
  for (let f = 0; f < faces.length / 3; f++) {
    const [a, b, c] = [0, 1, 2].map((i) => vertices[faces[3 * f + i]]);
    normals.push(cross(minus(b, a), minus(c, a))); // as long as the face is large
    for (let i = 0; i < 3; i++) around[faces[3 * f + i]].push(f);
  }
  const units = normals.map(unit);
  const out = new Float32Array(6 * faces.length);
  faces.forEach((vertex, corner) => {
    const own = units[Math.floor(corner / 3)];
    let normal = [0, 0, 0];
    for (const f of around[vertex])
      if (dot(units[f], own) > SMOOTH) normal = along(normal, normals[f], 1);
    out.set([...vertices[vertex], ...unit(normal)], 6 * corner);
  });
  return out;
}

// A projection of everything onto the plane z = height, along the light.
function flattened(height) {
  const [x, y] = [SUN[0] / SUN[2], SUN[1] / SUN[2]];
  return [1, 0, 0, 0, 0, 1, 0, 0, -x, -y, 0, 0, x * height, y * height, height, 1];
}

// Drawing ---------------------------------------------------------------------------------------

const VERTEX = `#version 300 es
in vec3 position, normal;
uniform mat4 part, screen;
out vec3 place, facing;
void main() {
  vec4 world = part * vec4(position, 1.0);
  place = world.xyz;
  facing = mat3(part) * normal;
  gl_Position = screen * world;
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 place, facing;
uniform vec3 eye, sun, sky, other;
uniform vec4 color;
uniform float cell, reach, shadow;
out vec4 pixel;
void main() {
  vec3 toward = normalize(eye - place), normal = normalize(facing);
  if (dot(normal, toward) < 0.0) normal = -normal;
  float light = 0.45 + 0.4 * max(dot(normal, sun), 0.0) + 0.2 * max(dot(normal, toward), 0.0);
  float shine = cell > 0.0 ? 0.0 : 0.15 * pow(max(dot(normal, normalize(sun + toward)), 0.0), 30.0);
  vec3 base = color.rgb;
  if (cell > 0.0) {
    vec2 square = floor(place.xy / cell);
    if (mod(square.x + square.y, 2.0) > 0.5) base = other;
  }
  float far = cell > 0.0 ? smoothstep(0.4 * reach, reach, distance(eye, place)) : 0.0;
  pixel = vec4(mix(light * base + shine, sky, far), color.a);
  if (shadow > 0.0) pixel = vec4(0.0, 0.0, 0.0, shadow);
}`;

function compile(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.bindAttribLocation(program, 0, "position");
  gl.bindAttribLocation(program, 1, "normal");
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw gl.getProgramInfoLog(program);
  gl.useProgram(program);
  const names = ["part", "screen", "eye", "sun", "sky", "other", "color", "cell", "reach", "shadow"];
  return Object.fromEntries(names.map((name) => [name, gl.getUniformLocation(program, name)]));
}

function upload(gl, mesh) {
  const array = gl.createVertexArray(), numbers = corners(mesh);
  gl.bindVertexArray(array);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, numbers, gl.STATIC_DRAW);
  for (let i = 0; i < 2; i++) {
    gl.enableVertexAttribArray(i);
    gl.vertexAttribPointer(i, 3, gl.FLOAT, false, 24, 12 * i);
  }
  return { array, count: numbers.length / 6 };
}

// Returns a function that draws the scene at a time, seen by a camera.
function painter(canvas, data, poses) {
  const gl = canvas.getContext("webgl2", { alpha: false, stencil: true });
  if (!gl) return null;
  const at = compile(gl), meshes = data.meshes.map((mesh) => upload(gl, mesh));
  const solid = data.parts.filter((part) => part.rgba[3] >= 1);
  const glass = data.parts.filter((part) => part.rgba[3] < 1);
  const floor = data.parts.find((part) => part.checker);
  gl.uniform3fv(at.sun, unit(SUN));
  gl.uniform3fv(at.sky, SKY);
  gl.clearColor(...SKY, 1);
  gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
  gl.stencilFunc(gl.EQUAL, 0, 255);
  gl.stencilOp(gl.KEEP, gl.KEEP, gl.INCR);

  function show(part, time, before) {
    const body = rigid(...pose(poses, data.bodies, part.body, time));
    const world = multiply(body, rigid(part.pos, part.quat));
    gl.uniformMatrix4fv(at.part, false, before ? multiply(before, world) : world);
    const [first, second] = part.checker ? part.checker.colors : [part.rgba, part.rgba];
    gl.uniform4f(at.color, ...first.slice(0, 3), part.rgba[3]);
    gl.uniform3fv(at.other, second.slice(0, 3));
    gl.uniform1f(at.cell, part.checker ? part.checker.cell : 0);
    gl.bindVertexArray(meshes[part.mesh].array);
    gl.drawArrays(gl.TRIANGLES, 0, meshes[part.mesh].count);
  }

  return (time, camera) => {
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT | gl.STENCIL_BUFFER_BIT);
    gl.uniformMatrix4fv(at.screen, false, projection(camera, canvas.width / canvas.height));
    gl.uniform3fv(at.eye, axes(camera).eye);
    gl.uniform1f(at.reach, Math.max(12, 12 * camera.distance));
    gl.uniform1f(at.shadow, 0);
    gl.enable(gl.DEPTH_TEST);
    gl.disable(gl.BLEND);
    gl.depthMask(true);
    for (const part of solid) show(part, time);
    gl.enable(gl.BLEND);
    gl.depthMask(false);
    if (floor) {
      gl.enable(gl.STENCIL_TEST); // a place is darkened once
      gl.uniform1f(at.shadow, 0.25);
      const onto = flattened(floor.pos[2] + 1e-3 * camera.distance);
      for (const part of solid) if (!part.checker) show(part, time, onto);
      gl.uniform1f(at.shadow, 0);
      gl.disable(gl.STENCIL_TEST);
    }
    gl.enable(gl.CULL_FACE); // of what one sees through, only the front
    for (const part of glass) show(part, time);
    gl.disable(gl.CULL_FACE);
  };
}

// The curve of the reward, green where the episode counts as a success, and the present time.
function plot(canvas, rewards, success, time) {
  const context = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.width / ratio, canvas.height / ratio];
  const low = Math.min(0, ...rewards), high = Math.max(0, ...rewards) || 1;
  const left = 52, steps = Math.max(rewards.length - 1, 1);
  const x = (k) => left + ((width - left - 12) * k) / steps;
  const y = (value) => 8 + ((height - 26) * (high - value)) / (high - low || 1);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.fillStyle = "#d5efd9";
  const won = success.indexOf(1);
  if (won >= 0) context.fillRect(x(won), 8, x(steps) - x(won) + 1, height - 26);
  context.strokeStyle = "#bbb";
  context.strokeRect(left, 8, width - left - 12, height - 26);
  context.fillStyle = "#555";
  context.font = "12px sans-serif";
  context.textAlign = "right";
  for (const value of [low, high]) context.fillText(short(value), left - 5, y(value) + 4);
  context.textAlign = "left";
  context.fillText("reward of each step", left, height - 4);
  context.beginPath();
  rewards.forEach((value, k) => context.lineTo(x(k), y(value)));
  context.strokeStyle = "#2060a8";
  context.lineWidth = 1.5;
  context.stroke();
  context.fillStyle = "#c03020";
  context.fillRect(x(Math.min(time, steps)) - 1, 8, 2, height - 26);
  return (place) => (steps * (place - left)) / (width - left - 12);
}

// Page ------------------------------------------------------------------------------------------

function start() {
  const find = (name) => document.getElementById(name);
  const data = JSON.parse(find("data").textContent);
  const poses = decode(data.poses, Float32Array), rewards = [...decode(data.rewards, Float32Array)];
  const success = decode(data.success, Uint8Array), last = Math.max(rewards.length - 1, 1e-9);
  const returns = rewards.reduce((sums, x) => [...sums, (sums.at(-1) ?? 0) + x], []);
  const view = find("view"), curve = find("plot"), slider = find("time"), button = find("play");
  const draw = painter(view, data, poses);
  if (!draw) return;
  const home = () => ({ ...data.camera, lookat: [...data.camera.lookat] });
  let camera = home(), time = 0, playing = true, before = 0, toStep = null;
  slider.max = last;

  // What a camera that follows a body has to add to its point.
  function moved() {
    if (data.camera.follow < 0) return [0, 0, 0];
    const place = (t) => pose(poses, data.bodies, data.camera.follow, t)[0];
    const by = minus(place(time), place(0));
    return [by[0], by[1], 0];
  }

  function frame(now) {
    const passed = before ? Math.min((now - before) / 1000, 0.25) : 0;
    before = now;
    if (playing) time += (passed / data.dt) * Number(find("speed").value);
    if (time > last) time = playing ? 0 : last;
    for (const canvas of [view, curve]) {
      const ratio = window.devicePixelRatio || 1;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((x) => x * ratio);
      if (canvas.width !== Math.round(width)) canvas.width = Math.round(width);
      if (canvas.height !== Math.round(height)) canvas.height = Math.round(height);
    }
    draw(time, { ...camera, lookat: along(camera.lookat, moved(), 1) });
    toStep = plot(curve, rewards, success, time);
    slider.value = time;
    const k = Math.min(Math.floor(time), rewards.length - 1);
    find("numbers").textContent =
      `${(k * data.dt).toFixed(2)} s · step ${k + 1} of ${rewards.length} · ` +
      `reward ${short(rewards[k])} · return ${short(returns[k], 4)}` +
      (success[k] ? " · success" : "");
    requestAnimationFrame(frame);
  }

  function play(on) {
    playing = on;
    button.textContent = on ? "Pause" : "Play";
  }

  function seek(to) {
    play(false);
    time = Math.min(Math.max(to, 0), last);
  }

  button.onclick = () => play(!playing);
  slider.oninput = () => seek(Number(slider.value));
  const point = (event) => seek(toStep(event.offsetX));
  curve.onpointerdown = (event) => (curve.setPointerCapture(event.pointerId), point(event));
  curve.onpointermove = (event) => event.buttons && point(event);
  document.onkeydown = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) seek(Math.round(time) + by);
    if (event.key === " ") play(!playing);
    if (by || event.key === " ") event.preventDefault();
  };

  const fingers = new Map(); // pointers that are down, by their number
  const spread = () => {
    const [a, b] = [...fingers.values()];
    return b ? Math.hypot(a[0] - b[0], a[1] - b[1]) : 0;
  };
  view.oncontextmenu = (event) => event.preventDefault();
  view.ondblclick = () => (camera = home());
  view.onwheel = (event) => {
    event.preventDefault();
    camera.distance *= Math.exp(Math.max(-50, Math.min(50, event.deltaY)) / 400);
  };
  view.onpointerdown = (event) => {
    view.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
  };
  view.onpointerup = view.onpointercancel = (event) => fingers.delete(event.pointerId);
  view.onpointermove = (event) => {
    const old = fingers.get(event.pointerId);
    if (!old) return;
    const wide = spread(), count = fingers.size;
    const [x, y] = [event.clientX - old[0], event.clientY - old[1]].map((by) => by / count);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (count > 1 || event.shiftKey || event.buttons & 6) {
      const { right, up } = axes(camera);
      const size = (2 * camera.distance * Math.tan((camera.fovy * Math.PI) / 360)) / view.clientHeight;
      camera.lookat = along(along(camera.lookat, right, -x * size), up, y * size);
      if (count > 1) camera.distance *= wide / (spread() || 1);
    } else {
      camera.azimuth -= 0.4 * x;
      camera.elevation = Math.max(-89.9, Math.min(89.9, camera.elevation - 0.4 * y));
    }
  };
  requestAnimationFrame(frame);
}

if (typeof document !== "undefined") start();
