// Requests to the server: the token, errors in the server's words, events of a job.

const KEY = "ipa-token";
const CLIENT = `page-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`; // the queue is fair to each tab

/** What the server said is wrong. */
export class Failure extends Error {
  constructor(message, hint = "", status = 0) {
    super(message);
    this.hint = hint;
    this.status = status;
  }
}

/** The server cannot be reached, or is not ready: worth another try. */
export class Lost extends Error {}

let ask = null;

/** Use `asking`, an async function of whether a token was refused, to get tokens. */
export function askForTokens(asking) {
  ask = asking;
}

/** The answer to a request. Throws Failure or Lost. */
export async function request(path, options = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEY);
    const headers = { "X-Client-Id": CLIENT, ...(token && { Authorization: `Bearer ${token}` }), ...options.headers };
    let answer;
    try {
      // Without credentials: else the browser would ask for a password in a window of its own.
      answer = await fetch(path, { credentials: "omit", cache: "no-store", ...options, headers });
    } catch {
      throw new Lost();
    }
    if (answer.status === 401) {
      await askToken(token);
    } else if (answer.status === 503) {
      throw Object.assign(new Lost(), { reason: (await failure(answer)).message });
    } else if (!answer.ok) {
      throw await failure(answer);
    } else {
      return answer;
    }
  }
}

let asking = null; // one dialog, however many requests wait for it

async function askToken(refused) {
  if (refused !== sessionStorage.getItem(KEY)) return; // another request has asked meanwhile
  asking ??= ask(refused !== null).finally(() => (asking = null));
  sessionStorage.setItem(KEY, await asking);
}

async function failure(answer) {
  try {
    const { error } = await answer.json();
    return new Failure(error.message, error.hint, answer.status);
  } catch {
    return new Failure(`the server answered ${answer.status}`, "its log may say more", answer.status);
  }
}

/** The data of an answer in JSON. Seeds beyond 2^53 stay text, for JavaScript's numbers have no room for them. */
export async function data(path, options) {
  return parsed(await (await request(path, options)).text()).data;
}

const parsed = (text) => JSON.parse(text.replace(/"seed": ?(\d{16,})/g, '"seed": "$1"'));

export const post = (path, body) =>
  data(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/** What a job is at, each time it changes, until it has ended. Throws Lost when the connection ends before. */
export async function* events(id) {
  const answer = await request(`/v1/jobs/${id}/events`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let read;
    try {
      read = await reader.read();
    } catch {
      throw new Lost();
    }
    if (read.done) return;
    const whole = (rest + read.value).split("\n\n");
    rest = whole.pop();
    for (const event of whole) {
      const line = event.split("\n").find((one) => one.startsWith("data: "));
      if (line) yield parsed(line.slice(6));
    }
  }
}

/** The facts of a server, once it is ready; `say` hears why it is not, undefined while nothing answers. */
export async function ready(say) {
  for (let wait = 250; ; wait = Math.min(wait * 1.5, 3000)) {
    try {
      return await data("/readyz");
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      say(error.reason && `${error.reason[0].toUpperCase()}${error.reason.slice(1)}…`);
    }
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/** Whether this tab has a token. */
export const hasToken = () => sessionStorage.getItem(KEY) !== null;
