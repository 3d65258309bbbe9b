/** Long work in short slices on the main thread: a worker would need a hole in the page's policy, and is forbidden in some notebooks. */

const SLICE_MS = 8;
/** After so long without a frame the next slice waits for one: what is done shall be seen. */
const FRAME_MS = 24;

/** Lets everything else that waits have its turn first. */
export function turn(): Promise<void> {
  return new Promise((done) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      done();
    };
    port2.postMessage(null);
  });
}

function frame(): Promise<void> {
  // A hidden tab draws no frames: there the work goes on without.
  return new Promise((done) => (document.hidden ? void turn().then(done) : requestAnimationFrame(() => void turn().then(done))));
}

export class Slice {
  private end = performance.now() + SLICE_MS;
  private frameAt = performance.now();

  /** Waits where the slice is used up; says whether the work is still wanted. */
  async rest(wanted: () => boolean): Promise<boolean> {
    const now = performance.now();
    if (now >= this.end) {
      if (this.due) {
        await frame();
        this.frameAt = performance.now();
      } else {
        await turn();
      }
      this.end = performance.now() + SLICE_MS;
    }
    return wanted();
  }

  get spent(): boolean {
    return performance.now() >= this.end;
  }

  /** The next rest waits for a frame: what is done so far can be drawn for it. */
  get due(): boolean {
    return performance.now() - this.frameAt > FRAME_MS;
  }
}
