// Runs the suite against a cache and prints {id: {kind, passed, says}} as JSON.
//
//   node run.mjs http://127.0.0.1:8080 [test id ...]

import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'

const require = createRequire(import.meta.url)
const home = dirname(require.resolve('http-cache-tests/package.json'))
const load = name => import(pathToFileURL(join(home, name)))

const { runTests, getResults } = await load('client/runner.mjs')
const suites = (await load('tests/index.mjs')).default
const { default: fetch } = await import('node-fetch')

const [base, ...ids] = process.argv.slice(2)
const wanted = test => !test.browser_only && (ids.length === 0 || ids.includes(test.id))
const chosen = suites.map(suite => ({ ...suite, tests: suite.tests.filter(wanted) }))

await runTests(chosen, fetch, false, base)
const results = getResults()
const told = {}
for (const test of chosen.flatMap(suite => suite.tests)) {
  const result = results[test.id]
  told[test.id] = {
    kind: test.kind || 'required',
    passed: result === true,
    says: result === true ? '' : result.join(': ')
  }
}
console.log(JSON.stringify(told))
