//go:build !(freebsd || linux)

package http1

import "golang.org/x/sys/unix"

// accept leaves a moment without close-on-exec, for want of accept4(2).
func accept(fd int) (int, error) {
	nfd, _, err := unix.Accept(fd)
	if err == nil {
		unix.CloseOnExec(nfd)
		err = unix.SetNonblock(nfd, true)
	}
	return nfd, err
}
