// Prints how many tests of each kind the caches published with the suite pass: {name: {required, optimal, check}}.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'

const require = createRequire(import.meta.url)
const home = dirname(require.resolve('http-cache-tests/package.json'))
const load = name => import(pathToFileURL(join(home, name)))

const suites = (await load('tests/index.mjs')).default
const tests = suites.flatMap(suite => suite.tests).filter(test => !test.browser_only)
const told = {}
for (const peer of (await load('results/index.mjs')).default) {
  if (peer.type === 'browser') continue
  const results = JSON.parse(readFileSync(join(home, 'results', peer.file)))
  const totals = { required: 0, optimal: 0, check: 0 }
  for (const test of tests) {
    if (results[test.id] === true) totals[test.kind || 'required']++
  }
  told[`${peer.name} ${peer.version}`] = totals
}
console.log(JSON.stringify(told))
