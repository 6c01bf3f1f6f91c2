//go:build !(freebsd || linux || netbsd || openbsd)

package spawn

// The core never executes anything, so it can do without close-on-exec.
const recvFlags = 0
