// Package load turns Compose files, environment and profiles into a project of
// compose-go, with diagnostics that name file, line, path and a likely fix.
//
// A load has four steps:
//
//  1. discover: which files, which .env, which name (discover.go)
//  2. check each file on its YAML nodes, where lines are known: syntax,
//     duplicate keys, unknown keys, types, interpolation, and attributes that
//     are not acted on (document.go, schema.go, attributes.go). All faults are
//     reported at once
//  3. compose-go merges, extends, includes and normalises; its errors get the
//     line of the path that they name (compose.go)
//  4. check what only the whole project shows: references, cycles, names and
//     ports that clash (consistency.go)
//
// Step 2 replaces compose-go's own schema validation: compiling that takes some
// 20 ms, which each command would pay.
package load
