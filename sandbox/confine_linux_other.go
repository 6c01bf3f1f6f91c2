//go:build linux && confine && !amd64

package sandbox

var refusedHere []uintptr
