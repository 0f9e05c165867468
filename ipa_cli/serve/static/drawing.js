// One job at a time: the newest order is drawn, those that it overtakes never are.

import { data, events, Failure, Lost, post, ready, request } from "./api.js";

const LOOK = 1000; // milliseconds between two looks at a job's place in the queue

/**
 * Draws orders, objects with the `body` of a job; `hear` is told of them: `progress(order, job)`,
 * `drawn(order, job, blobs)`, `failed(order, failure)`, `cancelled(order)`, `lost(reason)`, `found(facts)`, `idle()`.
 */
export function makeDrawing(hear) {
  let next = null;
  let current = null;
  let working = false;

  async function work() {
    if (working) return;
    working = true;
    while (next !== null) {
      current = next;
      next = null;
      await draw(current);
      current = null;
    }
    working = false;
    hear.idle();
  }

  async function draw(order) {
    try {
      const job = await followed(order);
      if (job.status === "done") {
        const blobs = await Promise.all(job.pictures.map(async ({ url }) => (await request(url)).blob()));
        await hear.drawn(order, job, blobs);
      } else if (job.status === "cancelled") {
        hear.cancelled(order);
      } else {
        throw new Failure(job.error.message, job.error.hint);
      }
    } catch (error) {
      if (!(error instanceof Lost)) {
        hear.failed(order, error);
        return;
      }
      hear.lost(error.reason);
      const facts = await ready(hear.lost);
      hear.found(facts);
      if (order.id) await end(order.id);
      if (!order.over) next ??= order;
    }
  }

  /** The last state of a job that is sent and followed. */
  async function followed(order) {
    let job = await post("/v1/jobs", order.body);
    order.id = job.id;
    if (order.over) await end(job.id);
    const place = setInterval(async () => {
      if (job.status !== "queued") return;
      const now = await data(`/v1/jobs/${job.id}`).catch(() => null);
      if (now?.status === "queued") hear.progress(order, now);
    }, LOOK);
    try {
      for await (job of events(job.id)) hear.progress(order, job);
    } finally {
      clearInterval(place);
    }
    if (job.status === "queued" || job.status === "running") throw new Lost();
    return job;
  }

  const end = (id) => request(`/v1/jobs/${id}`, { method: "DELETE", keepalive: true }).catch(() => null);

  /** Give up what is drawn; nothing waits after it. */
  function cancel() {
    next = null;
    overtake();
  }

  function overtake() {
    if (current === null || current.over) return;
    current.over = true;
    if (current.id) end(current.id);
  }

  return {
    cancel,
    /** Draw an order once what is drawn now has ended, unless a newer one comes. */
    after(order) {
      next = order;
      work();
    },
    /** Draw an order in place of what is drawn now. */
    instead(order) {
      overtake();
      this.after(order);
    },
    /** The order that is drawn, null for none. */
    get current() {
      return current;
    },
    /** The order that will be drawn last, null for none. */
    get newest() {
      return next ?? current;
    },
  };
}
