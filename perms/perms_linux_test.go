package perms

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func init() { chmods["chmodOld"] = chmodOld }

func TestChmodOldRefusesLink(t *testing.T) {
	d := t.TempDir()
	if err := os.Symlink("nowhere", d+"/link"); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for name, chmod := range chmods {
		if err := chmod(int(dir.Fd()), "link", 0o777); err != unix.ELOOP {
			t.Errorf("%s: %v", name, err)
		}
	}
}
