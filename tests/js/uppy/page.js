// Somebody's page that uploads with Uppy: what the tests call is `uploads`.
import Uppy from '@uppy/core'
import Tus from '@uppy/tus'

const SIZE = 3_000_000

// the same bytes each time, without a file on a disk
const file = (name) => {
  const bytes = new Uint8Array(SIZE)
  for (let n = 0; n < SIZE; n += 1) bytes[n] = (n * 31 + name.length) & 255
  return new File([bytes], name, { type: 'application/octet-stream', lastModified: 1 })
}

const made = {}

window.uploads = {
  heard: [],
  begin(endpoint, names, options = {}) {
    const uppy = new Uppy({ autoProceed: false }).use(Tus, {
      endpoint,
      retryDelays: [100, 200, 400, 800, 1600, 3200],
      onBeforeRequest: (request) => {
        const offset = request.getHeader('Upload-Offset')
        window.uploads.heard.push(`${request.getMethod()} ${offset ?? ''}`.trim())
      },
      ...options,
    })
    made.uppy = uppy
    for (const name of names) {
      uppy.addFile({ name, type: 'application/octet-stream', data: file(name) })
    }
    made.done = uppy.upload()
  },
  async end() {
    const result = await made.done
    return {
      failed: result.failed.map((one) => String(one.error)),
      urls: result.successful.map((one) => one.uploadURL),
    }
  },
  sent() {
    return Math.max(0, ...made.uppy.getFiles().map((one) => one.progress.bytesUploaded || 0))
  },
  pause() {
    made.uppy.pauseAll()
  },
  resume() {
    made.uppy.resumeAll()
  },
}
