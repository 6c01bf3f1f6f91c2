// The measurements have a module of their own, so that `go build ./...` and
// `go test ./...` of onewake know nothing of them.
module github.com/onewake/onewake/tools/bench

go 1.25.0

require golang.org/x/sys v0.46.0
