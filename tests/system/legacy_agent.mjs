// An agent of the earlier system, with nothing but Node's standard library:
// it knows the contract's field names and neither tokens, attempts nor leases.
// node legacy_agent.mjs <server> <workerId>; POLL_MS and CANCEL_MS shorten its intervals.
import { spawn, execFileSync } from 'node:child_process'
import { mkdtempSync, writeFileSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'

const [server, workerId] = process.argv.slice(2)
const pollMs = Number(process.env.POLL_MS ?? 5000)
const cancelMs = Number(process.env.CANCEL_MS ?? 2000)

const send = (method, route, body) =>
  fetch(server + route, {
    method,
    headers: { 'Content-Type': 'application/json' },
    body: body && JSON.stringify(body),
  })

const facts = () => ({
  workerId,
  hostname: os.hostname(),
  os: `${os.type()} ${os.release()}`,
  cpuCount: os.cpus().length,
  cpuUsage: 0,
  ramTotalMb: Math.round(os.totalmem() / 2 ** 20),
  ramFreeMb: Math.round(os.freemem() / 2 ** 20),
  version: '1.0.0',
  status: 'IDLE',
})

async function runLine(job, line, cwd, result) {
  const child = spawn('/bin/sh', ['-c', line], { cwd, detached: true })
  const posts = []
  for (const type of ['stdout', 'stderr']) {
    child[type].on('data', (data) => {
      result[type] += data
      posts.push(
        send('POST', '/api/jobs/stream-output', { jobId: job.jobId, data: String(data), type }),
      )
    })
  }
  const timer = setInterval(async () => {
    const answer = await send('GET', `/api/jobs/check-cancel?jobId=${job.jobId}`)
    if ((await answer.json()).cancelRequested) process.kill(-child.pid, 'SIGTERM')
  }, cancelMs)
  const code = await new Promise((done) => child.on('close', (code) => done(code ?? 143)))
  clearInterval(timer)
  await Promise.all(posts)
  return code
}

async function run(job) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'legacy-'))
  const zip = `${folder}.zip`
  try {
    if (job.fileUrl) {
      const answer = await fetch(job.fileUrl)
      if (!answer.ok) throw new Error(`download: ${answer.status}`)
      writeFileSync(zip, Buffer.from(await answer.arrayBuffer()))
      execFileSync('python3', ['-m', 'zipfile', '-e', zip, folder])
    }
    const result = { stdout: '', stderr: '', exitCode: 0 }
    for (const line of job.command.split('\n').filter((line) => line.trim())) {
      result.exitCode = await runLine(job, line, folder, result)
      if (result.exitCode) break
    }
    rmSync(zip, { force: true })
    execFileSync('python3', ['-m', 'zipfile', '-c', zip, '.'], { cwd: folder })
    await send('POST', '/api/jobs/submit-result', {
      jobId: job.jobId,
      workerId,
      ...result,
      resultZipBase64: readFileSync(zip).toString('base64'),
      resultZipName: `${job.jobId}-result.zip`,
    })
  } catch (error) {
    await send('PUT', '/api/jobs/submit-result', {
      jobId: job.jobId,
      workerId,
      errorMessage: String(error),
    })
  } finally {
    rmSync(folder, { recursive: true, force: true })
    rmSync(zip, { force: true })
  }
}

const registered = await send('POST', '/api/workers/register', facts())
if (registered.status !== 200) process.exit(1)
setInterval(() => send('POST', '/api/workers/heartbeat', facts()).catch(() => {}), 10_000)
for (;;) {
  const answer = await fetch(`${server}/api/jobs/get-job?workerId=${workerId}`)
  if (answer.status === 200) await run((await answer.json()).job)
  else await new Promise((done) => setTimeout(done, pollMs))
}
