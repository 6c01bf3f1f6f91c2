package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// childUntraceable checks the result with prctl(2) and /proc.
func childUntraceable() error {
	if err := Untraceable(); err != nil {
		return err
	}
	n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	fmt.Println("dumpable:", n, err)
	if n != 0 || err != nil {
		return fmt.Errorf("dumpable %d, %w", n, err)
	}
	if os.Geteuid() != 0 {
		return nil
	}
	// Another user cannot read its environment.
	cmd := exec.Command("/bin/cat", fmt.Sprintf("/proc/%d/environ", os.Getpid()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	fmt.Printf("environ for others: %s%v\n", out, err)
	if err == nil || !strings.Contains(string(out), "ermission denied") {
		return fmt.Errorf("environ can be read")
	}
	return nil
}
