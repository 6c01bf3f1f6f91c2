//go:build darwin || freebsd || netbsd || openbsd

package sock

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// mustBeUnix guards those socket options whose level and number mean something
// else on a TCP socket, where an empty answer would read as root.
func mustBeUnix(fd int) error {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("getsockname: %w", err)
	}
	if _, ok := sa.(*unix.SockaddrUnix); !ok {
		return errNotUnix
	}
	return nil
}
