//go:build freebsd || linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/onewake/onewake/perms"
)

// These tests check where messages are printed, and exit statuses. The texts of
// all errors are tested in package cli.
func TestMessages(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	listen := "unix:" + dir + "/s"
	unsafe := newDir(t, nil)
	os.Chmod(unsafe, 0o777)
	taken := newDir(t, nil) + "/s"
	ln, err := net.Listen("unix", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	toFind := map[string]string{"freebsd": " (to find it: sockstat -l)", "linux": " (to find it: ss -lnp)"}[runtime.GOOS]
	inUse := "listen unix:" + taken + ": address already in use: another server answers" + toFind
	writable := "listen unix:" + unsafe + "/s: " + unsafe + ": writable by its group and others (to fix: chmod go-w " + unsafe + ")"
	for _, tt := range []struct {
		name string
		args []string
		want result
	}{
		{"unknown flag", []string{"-bogus"}, result{status: statusUsage, stderr: "onewake: -bogus: no such flag\nonewake -h lists the flags\n"}},
		{"all at once", []string{"-listen", listen, "-dir", "/no-such", "no-such"}, result{status: statusConfig,
			stderr: "onewake: -dir \"/no-such\": no such file or directory (to fix: install -d -o " + perms.UserName(os.Geteuid()) + " /no-such)\n" +
				"onewake: command \"no-such\": not in PATH=" + commandPath + ", use its absolute path\n"}},
		{"bad by -check", []string{"-check", "-timeout", "5", "-listen", listen, "-listen", "unix:" + taken, "sh"}, result{status: statusUsage,
			stdout: "command \"sh\": " + need(t, "sh", "install the base system") + "\n", stderr: "onewake: -timeout \"5\": no unit, use for example 5s\nonewake: " + inUse + "\n"}},
		{"good by -check", []string{"-check", "-listen", listen}, result{stdout: "configuration is good\n"}},
		{"version", []string{"-version"}, result{stdout: fmt.Sprintf("onewake %s %s %s/%s\n", testVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if r := run(t, tt.args...); r != tt.want {
				t.Errorf("got  %+v\nwant %+v", r, tt.want)
			}
		})
	}
	// An error after the beginning of a start is a record.
	for _, tt := range []struct {
		path, want string
		status     int
	}{{unsafe + "/s", writable, statusConfig}, {taken, inUse, statusInUse}} {
		s := launch{raw: true, args: []string{"-log-format", "json", "-listen", "unix:" + tt.path}}.begin(t)
		if st := s.wait(); st != tt.status {
			t.Errorf("%s: exit status %d, want %d", tt.path, st, tt.status)
		}
		if r := s.await("service failed"); r["error"] != tt.want || r["level"] != "ERROR" {
			t.Errorf("%v, want %q", r, tt.want)
		}
	}
	t.Run("help", func(t *testing.T) {
		r := run(t, "-h")
		if r.status != 0 || r.stderr != "" || !strings.HasPrefix(r.stdout, "usage: onewake [flags] [--] [command [argument ...]]\n") {
			t.Errorf("%+v", r)
		}
	})
	t.Run("not permitted", func(t *testing.T) {
		l := launch{args: []string{"-socket-owner", "root"}}
		if os.Geteuid() == 0 {
			l.cred = nobody(t)
		}
		l.args = append(l.args, "-listen", "unix:"+newDir(t, l.cred)+"/s")
		r := l.run(t)
		if r.status != statusNoPerm || !strings.Contains(r.stderr, "only root can set another owner") || r.stdout != "" {
			t.Errorf("%+v", r)
		}
	})
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("in the directory of a socket that was never made: %v, %v", entries, err)
	}
}
