// Meet the faults of an upstream, directly and through the sidecar: the twin of
// faults.py. An SDK is a function that opens it at a base URL and returns its calls
// by name, each of which resolves to the text of an answer.

const { CONTROL_URL, FAULTY_URL, FAULTY_SIDECAR_URL, REFUSALS = '', BROKEN_AT = '{}' } = process.env
const brokenAt = JSON.parse(BROKEN_AT) // bytes at which to break an answer, by the kind of its call

async function script(fault) {
  const query = new URLSearchParams({ fault })
  const answer = await fetch(`${CONTROL_URL}/faults?${query}`, { method: 'POST' })
  if (!answer.ok) throw new Error(`POST /faults: ${answer.status} ${await answer.text()}`)
}

// describe tells what a program can find out about an error.
const describe = (err) => ({
  class: err.constructor.name, message: err.message,
  status: err.status ?? err.statusCode ?? null, code: err.code ?? null, type: err.type ?? null,
})

async function meet(to, step, call, fault) {
  await script(fault)
  let line
  try {
    line = { text: await call(), error: null }
  } catch (err) {
    line = { text: null, error: describe(err) }
  }
  to(step, { scene: 'faults', ...line })
}

// faults meets all faults with one SDK. open takes base URL, retries and milliseconds of patience.
export async function faults(report, name, open, { broken = false } = {}) {
  if (!CONTROL_URL) return
  const places = { direct: FAULTY_URL, sidecar: `${FAULTY_SIDECAR_URL}/v1/session/${name}` }
  for (const [via, base] of Object.entries(places)) {
    const to = report(via, name)
    for (const [kind, call] of Object.entries(open(base, 0, 120_000))) {
      await meet(to, `whole ${kind}`, call, 'sound')
      for (const fault of REFUSALS.split(',')) await meet(to, `refused ${fault} ${kind}`, call, fault)
      await meet(to, `throttled ${kind}`, call, 'throttle 50')
      for (const at of broken ? (brokenAt[kind] ?? []) : []) {
        for (const fault of ['cut', 'reset']) await meet(to, `broken ${fault} ${at} ${kind}`, call, `${fault} ${at}`)
      }
    }
    // The SDK's own retries and timeouts go on working. Nothing answers a request that
    // times out; the time is what it may take to arrive there.
    for (const [kind, call] of Object.entries(open(base, 2, 120_000))) await meet(to, `retried ${kind}`, call, 'status 500')
    const hurried = open(base, 0, 2000)
    for (const kind of ['chat', 'stream']) await meet(to, `timeout ${kind}`, hurried[kind], 'no-headers')
  }
}
