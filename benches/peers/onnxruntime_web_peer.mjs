// onnxruntime-web as a peer: its WebAssembly build with SIMD, in node; one process, one model, one
// thread unless more are asked for.
//
// benches/README.md describes the arguments and the protocol; the first argument is the folder that
// holds its node_modules. An error ends the process with node's message on standard error.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const clock = () => process.hrtime.bigint();

function say(value) {
    process.stdout.write(JSON.stringify(value) + "\n");
}

// Resolves the package from that folder, wherever this script is.
async function library(folder) {
    const path = createRequire(folder + "/").resolve("onnxruntime-web/wasm");
    const found = await import(pathToFileURL(path));
    return found.default ?? found;
}

const ARRAYS = { f32: ["float32", Float32Array], i32: ["int32", Int32Array], i64: ["int64", BigInt64Array] };

// The data of an .npy file of format 1.0, little-endian and row-major as the bench wrote it.
function read(ort, dtype, dims, file) {
    const bytes = readFileSync(file);
    const data = bytes.subarray(10 + bytes.readUInt16LE(8));
    const [name, Elements] = ARRAYS[dtype] ?? [];
    if (name === undefined) throw new Error(`inputs of type ${dtype} are not supported; use f32, i32 or i64`);
    // A copy, as elements must be aligned.
    const elements = new Elements(new Uint8Array(data).buffer);
    const shape = dims.split(",").filter((dim) => dim !== "").map(Number);
    return new ort.Tensor(name, elements, shape);
}

async function load(ort, model, inputs) {
    // Errors only: its warnings are the same in every start.
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all", logSeverityLevel: 3 };
    const session = await ort.InferenceSession.create(readFileSync(model), options);
    const feeds = {};
    for (let at = 0; at + 3 < inputs.length; at += 4) {
        feeds[inputs[at]] = read(ort, inputs[at + 1], inputs[at + 2], inputs[at + 3]);
    }
    return { session, feeds };
}

// Runs until the engine has recompiled hot code with optimisations, which it does in the
// background.
async function settle({ session, feeds }) {
    const start = clock();
    for (let run = 0; run < 3 || clock() - start < 1_500_000_000n; run += 1) await session.run(feeds);
}

async function times({ session, feeds }, count) {
    const found = [];
    for (let run = 0; run < count; run += 1) {
        const start = clock();
        await session.run(feeds);
        found.push(Number(clock() - start));
    }
    return found;
}

async function outputs({ session, feeds }) {
    const found = await session.run(feeds);
    return session.outputNames.map((name) => Array.from(found[name].data, Number));
}

async function main() {
    const [folder, ...given] = process.argv.slice(2);
    const once = given[0] === "--once";
    if (once) given.shift();
    const threads = given[0] === "--threads" ? Number(given.splice(0, 2)[1]) : 1;
    const [model, ...inputs] = given;
    const start = clock();
    const ort = await library(folder);
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    const peer = await load(ort, model, inputs);
    const loaded = Number(clock() - start);
    if (once) {
        say({ outputs: await outputs(peer) });
        return;
    }
    await settle(peer);
    say({ ready: ort.env.versions.web, load_ns: loaded });
    for await (const line of createInterface({ input: process.stdin })) {
        const [order, count] = line.split(" ");
        if (order === "run") say({ times: await times(peer, Number(count)) });
        else if (order === "outputs") say({ outputs: await outputs(peer) });
        else throw new Error(`unknown request ${JSON.stringify(line)}`);
    }
}

// WebAssembly's threads would keep the process alive.
main().then(() => process.exit(0));
