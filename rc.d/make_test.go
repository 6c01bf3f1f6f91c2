//go:build freebsd || linux

package rcd_test

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// onewake is the real one, built once, unless there is one that is built
// already.
var onewake = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("ONEWAKE_TEST_BINARY"); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		return "", err
	}
	built = dir
	path := filepath.Join(dir, "onewake")
	if out, err := exec.Command("go", "build", "-o", path, "..").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %v\n%s", err, out)
	}
	return path, nil
})

var built string // a directory to remove

func TestMain(m *testing.M) {
	status := m.Run()
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(status)
}

// bothMakes runs a test under BSD make and GNU make, in a copy of what
// installing needs, with a stand-in for go, which writes its arguments to go.log.
func bothMakes(t *testing.T, test func(t *testing.T, name, dir string, run func(args ...string) string)) {
	t.Parallel()
	for _, name := range []string{"bmake", "make"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, err := exec.LookPath(name)
			if err != nil {
				t.Skip("no " + name)
			}
			dir := t.TempDir()
			for _, f := range []string{"Makefile", "main.go", "rc.d/onewake", "docs/jail.md", "docs/newsyslog.conf", "docs/nginx.conf", "docs/onewake.8"} {
				os.MkdirAll(filepath.Join(dir, filepath.Dir(f)), 0o755)
				os.WriteFile(filepath.Join(dir, f), []byte(read(t, "../"+f)), 0o644)
			}
			gobin := filepath.Join(dir, "go")
			os.WriteFile(gobin, []byte("#!/bin/sh\necho \"CGO_ENABLED=$CGO_ENABLED $*\" >>go.log\nmkdir -p build\necho binary >build/onewake\n"), 0o755)
			test(t, name, dir, func(args ...string) string {
				t.Helper()
				// -r: without sys.mk, which asks uname(1) for each of a dozen names.
				cmd := exec.Command(path, append([]string{"-r", "DESTDIR=" + dir + "/dest", "GO=" + gobin, "VERSION=1.2"}, args...)...)
				cmd.Dir = dir
				cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
					return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS") || strings.HasPrefix(v, "PREFIX=") || strings.HasPrefix(v, "DESTDIR=")
				})
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v\n%s", args, err, out)
				}
				return string(out)
			})
		})
	}
}

func tree(dir string) (files []string) {
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
	bothMakes(t, func(t *testing.T, name, dir string, run func(...string) string) {
		prefix := map[string]string{"bmake": "/usr/local", "make": "/opt/one"}[name]
		args := []string{"install"}
		if prefix != "/usr/local" { // the default
			args = append(args, "PREFIX="+prefix)
		}
		// What is there already, and what is gone already, is the same to both
		// makes: one shows the former and one the latter.
		twice := map[string]string{"bmake": "install", "make": "uninstall"}[name]
		// A build that is older than a source is not installed; one that is not
		// is, without a new one.
		binary := filepath.Join(dir, "build/onewake")
		os.Mkdir(filepath.Join(dir, "build"), 0o755)
		os.WriteFile(binary, nil, 0o755)
		old := time.Now().Add(-time.Hour)
		os.Chtimes(binary, old, old)
		run(args...)
		if twice == "install" {
			run(args...)
		} else {
			run("build/onewake")
		}
		if got := read(t, filepath.Join(dir, "go.log")); got != "CGO_ENABLED=0 build -trimpath -ldflags -s -w -X main.version=1.2 -o build/onewake .\n" {
			t.Errorf("go:\n%s", got)
		}
		p, dest := prefix[1:], filepath.Join(dir, "dest")
		want := []string{
			"-r-xr-xr-x " + p + "/etc/rc.d/onewake",
			"-r-xr-xr-x " + p + "/sbin/onewake",
			"-r--r--r-- " + p + "/share/examples/onewake/jail.md",
			"-r--r--r-- " + p + "/share/examples/onewake/newsyslog.conf",
			"-r--r--r-- " + p + "/share/examples/onewake/nginx.conf",
			"-r--r--r-- " + p + "/share/man/man8/onewake.8",
		}
		if got := tree(dest); !slices.Equal(got, want) {
			t.Errorf("installed %q", got)
		}
		if got := read(t, filepath.Join(dest, prefix, "sbin/onewake")); got != "binary\n" {
			t.Errorf("installed an old build: %q", got)
		}
		script := read(t, filepath.Join(dest, prefix, "etc/rc.d/onewake"))
		if strings.Contains(script, "%%PREFIX%%") || !strings.Contains(script, ":-"+prefix+"/sbin/onewake}") {
			t.Error("%%PREFIX%% is not replaced")
		}

		mine := filepath.Join(dest, prefix, "sbin/mine")
		os.WriteFile(mine, nil, 0o644)
		args[0] = "uninstall"
		run(args...)
		if twice == "uninstall" {
			run(args...)
		}
		if got := tree(dest); len(got) != 1 || !strings.HasSuffix(got[0], "/sbin/mine") {
			t.Errorf("left behind %q", got)
		}
		if _, err := os.Stat(filepath.Join(dest, prefix, "share/examples/onewake")); err == nil {
			t.Error("left the directory of the examples")
		}
		run("clean")
		if _, err := os.Stat(filepath.Join(dir, "build")); err == nil {
			t.Error("clean has left build")
		}
	})
}

// The port installs what PLIST_FILES has, and the script as `make install` does.
func TestPort(t *testing.T) {
	t.Parallel()
	bmake, err := exec.LookPath("bmake")
	if err != nil {
		t.Skip("no bmake")
	}
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "bsd.port.mk"), nil, 0o644)
	sources, _ := filepath.Abs("..")
	os.MkdirAll(filepath.Join(dir, "stage/p/share/man/man8"), 0o755)
	cmd := exec.Command(bmake, "-r", "-m", dir, "-C", "../docs/port", "PREFIX=/p", "EXAMPLESDIR=/p/share/examples/onewake", "WRKSRC="+sources, "WRKDIR="+dir,
		"STAGEDIR="+dir+"/stage", "SED=sed", "MKDIR=mkdir -p", "INSTALL_SCRIPT=install -m 555", "INSTALL_MAN=install -m 444", "INSTALL_DATA=install -m 444",
		"post-install", "post-install-EXAMPLES-on")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := []string{"-r-xr-xr-x etc/rc.d/onewake", "-r--r--r-- share/man/man8/onewake.8"}
	got := slices.DeleteFunc(tree(dir+"/stage/p"), func(f string) bool { return strings.Contains(f, "/examples/") })
	if !slices.Equal(got, want) {
		t.Errorf("staged %q", got)
	}
	if !strings.Contains(read(t, "../docs/port/Makefile"), "PLIST_FILES=\tetc/rc.d/onewake \\\n\t\tsbin/onewake \\\n\t\tshare/man/man8/onewake.8.gz\n") {
		t.Error("PLIST_FILES are others")
	}
	if read(t, dir+"/stage/p/etc/rc.d/onewake") != strings.ReplaceAll(read(t, "onewake"), "%%PREFIX%%", "/p") {
		t.Error("the port has another script")
	}
}

// ask is one request over a connection of its own.
func ask(t *testing.T, network, address string) string {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.0\r\n\r\n")
	s, _ := io.ReadAll(c)
	return string(s)
}

// run.sh says how to reach what it has started, and leaves nothing.
func TestRun(t *testing.T) {
	t.Parallel()
	bin, err := onewake()
	if err != nil {
		t.Fatal(err)
	}
	for name, sub := range map[string]string{"short": "a", "long": strings.Repeat("long/", 20)} {
		t.Run(name, func(t *testing.T) {
			root, err := os.MkdirTemp("", "ow")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(root) })
			dir := filepath.Join(root, sub)
			os.MkdirAll(filepath.Join(dir, "build"), 0o755)
			script, _ := filepath.Abs("../tools/run.sh")
			cmd := exec.Command("sh", script, bin, "--", "/bin/echo", "it runs")
			cmd.Dir = dir
			stdout, _ := cmd.StdoutPipe()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cmd.Process.Kill() })
			defer time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() }).Stop() // ends a hang
			var said string
			in := bufio.NewScanner(stdout)
			for !strings.Contains(said, "http://127") && in.Scan() {
				said += in.Text() + "\n"
			}
			m := regexp.MustCompile(`curl --unix-socket '(.*)' http://localhost/\n\thttp://(127\.0\.0\.1:[0-9]+)/`).FindStringSubmatch(said)
			if m == nil {
				t.Fatalf("run says %q", said)
			}
			if own := m[1] == filepath.Join(dir, "build/onewake.sock"); own != (name == "short") || len(m[1]) > 103 {
				t.Errorf("socket %s", m[1])
			}
			if link, _ := os.Readlink(filepath.Join(dir, "build/onewake.sock")); name == "long" && link != m[1] {
				t.Errorf("build/onewake.sock is a link to %q", link)
			}
			for i, network := range []string{"unix", "tcp4"} {
				if s := ask(t, network, m[i+1]); !strings.HasSuffix(s, "\r\n\r\nit runs\n") {
					t.Errorf("%s answers %q", network, s)
				}
			}
			cmd.Process.Signal(syscall.SIGINT)
			for in.Scan() { // until whoever shows the log has ended too
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(m[1]); err == nil {
				t.Error("the socket is still there")
			}
			for _, f := range []string{filepath.Join(dir, "build/onewake.sock"), filepath.Dir(m[1])} {
				if _, err := os.Lstat(f); name == "long" && err == nil {
					t.Errorf("%s is still there", f)
				}
			}
		})
	}
}
