//go:build freebsd || linux

package front

import "golang.org/x/sys/unix"

func accept(fd int) (int, error) {
	nfd, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	return nfd, err
}
