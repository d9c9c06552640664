// Server-sent events over fetch. Unlike EventSource this tells the status of each answer and reads
// many events in one go. It ends with the event "end", and reconnects by itself until then.
const AGAIN_MS = 1000;
const BREATH_MS = 12;

// `heard` is called with the status of each answer, and with 0 when there is none or it has ended.
export async function follow(url, signal, handle, heard) {
  let last = "";
  while (!signal.aborted) {
    try {
      const headers = last ? { "Last-Event-ID": last } : {};
      const answer = await fetch(url, { headers, signal, credentials: "same-origin" });
      heard(answer.status);
      if (answer.status >= 400 && answer.status < 500) return undefined;
      if (answer.ok) {
        for await (const event of events(answer.body, signal)) {
          last = event.id || last;
          handle(event);
          if (event.name === "end") return undefined;
        }
      }
    } catch (error) {
      if (signal.aborted) return undefined;
    }
    heard(0);
    await new Promise((done) => setTimeout(done, AGAIN_MS));
  }
  return undefined;
}

async function* events(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let breath = performance.now();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    let from = 0;
    for (let at = rest.indexOf("\n\n"); at >= 0; at = rest.indexOf("\n\n", from)) {
      const event = read(rest.slice(from, at));
      from = at + 2;
      if (event.name) yield event;
      if (performance.now() - breath > BREATH_MS) {
        // Give the browser time to react to the user.
        await new Promise((go) => setTimeout(go));
        breath = performance.now();
        if (signal.aborted) return;
      }
    }
    rest = rest.slice(from);
  }
}

function read(block) {
  const event = { name: "", id: "", data: "" };
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) event.name = line.slice(7);
    else if (line.startsWith("id: ")) event.id = line.slice(4);
    else if (line.startsWith("data: ")) event.data += line.slice(6);
  }
  return event;
}
