//go:build linux

package rcd_test

import (
	"bufio"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bothMakes runs a test under BSD make and GNU make, in a copy of what
// installing needs, with a binary that is not built.
func bothMakes(t *testing.T, test func(t *testing.T, dir string, run func(args ...string) (string, error))) {
	t.Parallel()
	for _, name := range []string{"bmake", "make"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, err := exec.LookPath(name)
			if err != nil {
				t.Skip("no " + name)
			}
			dir := t.TempDir()
			for _, f := range []string{"Makefile", "run.sh", "rc.d/onewake", "docs/jail.md", "docs/newsyslog.conf", "docs/nginx.conf", "docs/onewake.8"} {
				s, err := os.ReadFile("../" + f)
				if err != nil && f != "docs/onewake.8" {
					t.Fatal(err)
				}
				os.MkdirAll(filepath.Join(dir, filepath.Dir(f)), 0o755)
				os.WriteFile(filepath.Join(dir, f), s, 0o644)
			}
			test(t, dir, func(args ...string) (string, error) {
				cmd := exec.Command(path, args...)
				cmd.Dir = dir
				cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
					return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS") || strings.HasPrefix(v, "PREFIX=") || strings.HasPrefix(v, "DESTDIR=")
				})
				out, err := cmd.CombinedOutput()
				return string(out), err
			})
		})
	}
}

func tree(t *testing.T, dir string) (files []string) {
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			fi, _ := d.Info()
			rel, _ := filepath.Rel(dir, p)
			files = append(files, fi.Mode().String()+" "+rel)
		}
		return nil
	})
	return files
}

func TestInstall(t *testing.T) {
	bothMakes(t, func(t *testing.T, dir string, run func(...string) (string, error)) {
		// A stand-in for go, which shows how it was called.
		golog := filepath.Join(dir, "go.log")
		gobin := filepath.Join(dir, "go")
		os.WriteFile(gobin, []byte("#!/bin/sh\necho \"CGO_ENABLED=$CGO_ENABLED $*\" >>'"+golog+"'\necho binary >build/onewake\nchmod 755 build/onewake\n"), 0o755)
		os.Mkdir(filepath.Join(dir, "build"), 0o755)
		dest := filepath.Join(dir, "dest")
		for _, prefix := range []string{"/usr/local", "/opt/one"} {
			args := []string{"DESTDIR=" + dest, "GO=" + gobin, "VERSION=1.2"}
			if prefix != "/usr/local" {
				args = append(args, "PREFIX="+prefix)
			}
			if out, err := run(append(args, "install")...); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			p := prefix[1:]
			want := []string{
				"-r-xr-xr-x " + p + "/etc/rc.d/onewake",
				"-r-xr-xr-x " + p + "/sbin/onewake",
				"-r--r--r-- " + p + "/share/examples/onewake/jail.md",
				"-r--r--r-- " + p + "/share/examples/onewake/newsyslog.conf",
				"-r--r--r-- " + p + "/share/examples/onewake/nginx.conf",
				"-r--r--r-- " + p + "/share/man/man8/onewake.8",
			}
			if got := tree(t, dest); !slices.Equal(got, want) {
				t.Errorf("installed %q", got)
			}
			script := read(t, filepath.Join(dest, prefix, "etc/rc.d/onewake"))
			if strings.Contains(script, "%%PREFIX%%") || !strings.Contains(script, "program "+prefix+"/sbin/onewake\n") {
				t.Error("%%PREFIX%% is not replaced")
			}
			if out, err := run(append(args, "install")...); err != nil { // over itself
				t.Errorf("%v\n%s", err, out)
			}
			os.WriteFile(filepath.Join(dest, prefix, "sbin/mine"), nil, 0o644)
			for range 2 {
				if out, err := run(append(args, "uninstall")...); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
			}
			if got := tree(t, dest); len(got) != 1 || !strings.HasSuffix(got[0], "/sbin/mine") {
				t.Errorf("left behind %q", got)
			}
			os.Remove(filepath.Join(dest, prefix, "sbin/mine"))
		}
		want := "CGO_ENABLED=0 build -trimpath -ldflags -s -w -X main.version=1.2 -o build/onewake .\n"
		if got := read(t, golog); got != want { // and not a second time
			t.Errorf("go:\n%s", got)
		}
		if out, err := run("clean"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if _, err := os.Stat(filepath.Join(dir, "build")); err == nil {
			t.Error("clean has left build")
		}
	})
}

// run.sh says how to reach what it has started, and leaves nothing.
func TestRun(t *testing.T) {
	t.Parallel()
	for name, sub := range map[string]string{"short": "a", "long": strings.Repeat("long/", 20)} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "15")
			dir := b.path(sub)
			os.MkdirAll(dir, 0o755)
			os.Mkdir(filepath.Join(dir, "build"), 0o755)
			os.Symlink(self(), filepath.Join(dir, "build/onewake"))
			b.behave("tcp 1")
			script, _ := filepath.Abs("../run.sh")
			cmd := exec.Command("sh", script, "build/onewake", "-cgi")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "ROOT="+b.root, "RELEASE=15")
			stdout, _ := cmd.StdoutPipe()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var said string
			for in := bufio.NewScanner(stdout); !strings.Contains(said, "http://127") && in.Scan(); {
				said += in.Text() + "\n"
			}
			m := regexp.MustCompile(`curl --unix-socket '(.*)' http://localhost/\n\thttp://(127\.0\.0\.1:[0-9]+)/`).FindStringSubmatch(said)
			if m == nil {
				t.Fatalf("run says %q", said)
			}
			if own := m[1] == filepath.Join(dir, "build/onewake.sock"); own != (name == "short") || len(m[1]) > 103 {
				t.Errorf("socket %s", m[1])
			}
			for i, network := range []string{"unix", "tcp4"} {
				c, err := net.Dial(network, m[i+1])
				if err != nil {
					t.Error(err)
					continue
				}
				c.Close()
			}
			cmd.Process.Signal(syscall.SIGINT)
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(m[1]); err == nil {
				t.Error("the socket is still there")
			}
			b.same("arguments", b.started().Args, "-listen", "unix:"+m[1], "-listen", "tcp4:127.0.0.1:0", "-cgi")
			if name == "long" {
				b.eventually("temporary directory removed", func() bool {
					_, err := os.Lstat(filepath.Dir(m[1]))
					return err != nil
				})
			}
			time.Sleep(50 * time.Millisecond)
		})
	}
}
