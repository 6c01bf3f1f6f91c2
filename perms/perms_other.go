//go:build !freebsd && !linux

package perms

const enforced = "unknown: this system may not look at the permissions of a socket file, guard the directory"
