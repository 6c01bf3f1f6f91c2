package control

import (
	"testing"

	"golang.org/x/sys/unix"
)

// mountFull mounts a file system that has no room for files.
func mountFull(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("none", dir, "tmpfs", 0, "nr_inodes=1"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}
