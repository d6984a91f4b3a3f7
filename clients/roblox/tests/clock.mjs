// The game's clock, in three kinds that the host treats alike.
//   Jumping: nobody else takes part; it jumps to what is due next.
//   Together: the edge's time is the game's; both jump together, and never while anything is on its way.
//   Real: seconds are seconds, as in a game; for an edge that was started as anybody would.
import { createConnection } from "node:net";
import { createInterface } from "node:readline";

// A fixed day, so that every run sees the same times.
const START = 1_800_000_000;

export class Jumping {
  seconds = 0;
  epoch = START;
  now() {
    return this.seconds;
  }
  jump(due) {
    if (!Number.isFinite(due)) throw new Error("nothing is left to do, but the spec has not ended");
    this.seconds = Math.max(this.seconds, due);
  }
  async pass(due, network) {
    if (network.waiting > 0) await network.something();
    else this.jump(due);
  }
}

export class Real {
  started = performance.now();
  epoch = Date.now() / 1000;
  now() {
    return (performance.now() - this.started) / 1000;
  }
  async pass(due, network) {
    const wait = due - this.now();
    if (wait > 0) await network.something(Math.min(wait * 1000, 1000));
  }
}

export class Together extends Jumping {
  constructor(port) {
    super();
    this.port = port;
    this.edge = null;
  }

  async attach() {
    const socket = createConnection({ port: this.port, host: "127.0.0.1", noDelay: true });
    await new Promise((resolve, reject) => socket.once("connect", resolve).once("error", reject));
    this.edge = { socket, began: this.seconds };
    socket.write(JSON.stringify({ hello: this.epoch + this.seconds }) + "\n");
    createInterface({ input: socket }).on("line", (line) => this.told?.(JSON.parse(line)));
    const lost = () => {
      this.edge = null;
      this.told?.(null);
    };
    socket.on("close", lost).on("error", lost);
  }

  // Lets time pass until `due`, or until the edge has said something.
  async pass(due, network) {
    if (network.controls > 0) return network.something();
    if (this.edge === null) {
      // Nobody listens: what was sent fails at once.
      if (network.waiting > 0) return network.something();
      return this.jump(due);
    }
    if (!Number.isFinite(due) && network.waiting === 0) throw new Error("nothing is left to do, but the spec has not ended");
    const { socket, began } = this.edge;
    const report = await new Promise((resolve) => {
      this.told = resolve;
      socket.write(JSON.stringify({ until: Math.min(due, this.seconds + 600) - began, sent: network.sent() }) + "\n");
    });
    if (report === null) return;
    this.seconds = Math.max(this.seconds, began + report.now);
    await network.arrived(report);
  }
}
