// Uploads a file with tus-js-client as argv says; prints what became of it as JSON.
import { readFileSync, statSync } from 'node:fs'
import { Readable } from 'node:stream'
import { Upload } from 'tus-js-client'

const { endpoint, path, options = {}, mode } = JSON.parse(process.argv[2])
const heard = []

function run(settings, source) {
  return new Promise((resolve, reject) => {
    const upload = new Upload(source, {
      endpoint,
      retryDelays: null,
      metadata: { filename: 'words.txt', filetype: 'text/plain' },
      ...options,
      ...settings(() => upload, resolve),
      onError: reject,
      onAfterResponse(request, response) {
        heard.push([request.getMethod(), response.getStatus()])
      },
    })
    upload.start()
  })
}

const whole = () => readFileSync(path)
// a stream that is no file: nobody knows its length before its end
const stream = () => {
  const made = new Readable({ read() {} })
  made.push(whole())
  made.push(null)
  return made
}
const finished = (self, resolve) => ({ onSuccess: () => resolve(self().url) })
let url = null

if (mode === 'deferred') {
  url = await run(
    (self, resolve) => ({ ...finished(self, resolve), uploadLengthDeferred: true, chunkSize: 70000 }),
    stream(),
  )
} else if (mode === 'resume') {
  // stops after the first chunk, then begins again with nothing but the address
  const address = await run(
    (self, resolve) => ({
      chunkSize: 70000,
      onChunkComplete: async () => {
        await self().abort()
        resolve(self().url)
      },
    }),
    whole(),
  )
  url = await run((self, resolve) => ({ ...finished(self, resolve), uploadUrl: address }), whole())
} else if (mode === 'terminate') {
  url = await run(
    (self, resolve) => ({
      chunkSize: 70000,
      onChunkComplete: async () => {
        await self().abort(true)
        resolve(self().url)
      },
    }),
    whole(),
  )
} else if (mode === 'twice') {
  // in two places at once: the second begins while the first one sends
  const large = Buffer.alloc(256 << 20)
  const retryDelays = [0, 0, 0, 0, 0]
  url = await new Promise((resolve, reject) => {
    let second = null
    const onProgress = (sent, self) => {
      if (sent === 0 || second !== null) return
      const there = { retryDelays, uploadUrl: self.url }
      second = run((that, done) => ({ ...finished(that, done), ...there }), large)
      second.then(resolve, reject)
    }
    run(
      (self, done) => ({
        ...finished(self, done),
        retryDelays,
        onProgress: (sent) => onProgress(sent, self()),
      }),
      large,
    ).catch(() => heard.push('the first one gave up'))
  })
} else {
  url = await run(finished, whole())
}
console.log(JSON.stringify({ url, heard, size: statSync(path).size }))
