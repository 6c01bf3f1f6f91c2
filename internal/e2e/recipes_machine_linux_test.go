//go:build interop

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is where a recipe is followed: a directory that stands for / and
// contains what the recipe makes. If root runs the tests it has two users:
// nobody stands for onewake, and www-data for www.
type machine struct {
	t       *testing.T
	root    string
	onewake *syscall.Credential // user of onewake and of the recipe's commands; nil: the user of the tests
	www     *syscall.Credential
	replace []string // other replacements, old and new
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t}
	if os.Geteuid() == 0 {
		m.onewake, m.www = credential(t, "nobody"), credential(t, "www-data")
	}
	m.root = newDir(t, m.onewake)
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/etc/rc.d", "/usr/local/bin", "/usr/local/libexec", "/usr/local/etc/nginx/onewake", "/usr/local/share/examples/onewake", "/var/spool", "/var/run", "/var/tmp", "/var/log", "/etc"} {
		m.mkdir(dir, 0o755)
	}
	if err := os.Symlink(underTest, m.program()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nginx.conf", "newsyslog.conf", "jail.md"} { // as the Makefile installs them
		m.write("/usr/local/share/examples/onewake/"+name, shipped(t, "docs/"+name), 0o644)
	}
	return m
}

// program is the path of onewake.
func (m *machine) program() string { return m.root + "/usr/local/sbin/onewake" }

// mkdir makes a directory owned by onewake.
func (m *machine) mkdir(path string, mode os.FileMode) {
	m.t.Helper()
	path = m.root + path
	err := os.MkdirAll(path, 0o755)
	if err == nil && m.onewake != nil {
		for dir := path; err == nil && len(dir) > len(m.root); dir = filepath.Dir(dir) {
			err = os.Chown(dir, int(m.onewake.Uid), int(m.onewake.Gid))
		}
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// here adapts a text of a page to this machine.
func (m *machine) here(text string) string {
	return strings.NewReplacer(append(m.replace,
		m.root+"/usr/local/", m.root+"/usr/local/", // already
		m.root+"/etc/", m.root+"/etc/",
		m.root+"/run/", m.root+"/run/",
		m.root+"/var/", m.root+"/var/",
		"/usr/local/bin/python3", "/usr/bin/python3",
		"/usr/local/libexec/git-core/", "/usr/lib/git-core/",
		"/usr/local/bin/git", "/usr/bin/git",
		"/usr/local/www/cgit/", "/usr/lib/cgit/",
		"/usr/local/", m.root+"/usr/local/",
		"/etc/systemd/", m.root+"/etc/systemd/",
		"/run/onewake", m.root+"/run/onewake",
		"/var/", m.root+"/var/",
		"%%PREFIX%%", m.root+"/usr/local",
	)...).Replace(text)
}

// These are FreeBSD's programs, as far as the pages use them.
const standins = `
set -e
sysrc() { for setting; do printf "%s='%s'\n" "${setting%%=*}" "$(printf %s "${setting#*=}" | sed "s/'/'\\\\''/g")" >>"$ROOT/etc/rc.conf"; done; }
service() { :; }
pkg() { :; }
pw() { :; }
useradd() { :; }
systemctl() { :; }
su() { sh -c "$4"; }		# su -m onewake -c ...: it is onewake already
install() {			# no other user can be given a file here
	while getopts do:g:m: o; do
		case $o in d) ow_d=-d;; m) ow_m=$OPTARG;; esac
	done
	shift $((OPTIND - 1))
	OPTIND=1
	command install $ow_d -m "$ow_m" "$@"
	ow_d=
}
`

// follow executes a page except for its console blocks.
func (m *machine) follow(r recipe) {
	m.t.Helper()
	for _, b := range r.blocks {
		switch {
		case b.file != "":
			m.write(b.file, b.text, 0o644)
		case b.lang == "sh":
			cmd := m.command(m.onewake, "/bin/sh", "-c", standins+m.here(b.text))
			if out, err := cmd.CombinedOutput(); err != nil {
				m.t.Fatalf("%s:%d: %v\n%s", r.name, b.line, err, out)
			}
		}
	}
}

// write writes a file of a page.
func (m *machine) write(path, text string, mode os.FileMode) string {
	m.t.Helper()
	path = m.here(path)
	m.mkdir(strings.TrimPrefix(filepath.Dir(path), m.root), 0o755)
	err := writeProgram(path, []byte(m.here(text)), mode)
	if err == nil && m.onewake != nil {
		err = os.Chown(path, int(m.onewake.Uid), int(m.onewake.Gid))
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return path
}

// read reads a file of a page.
func (m *machine) read(path string) string {
	m.t.Helper()
	b, err := os.ReadFile(m.here(path))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

func (m *machine) env() []string { return append(gitEnv(m.root), "ROOT="+m.root) }

// command returns a program to be run as the user, with a small environment.
func (m *machine) command(as *syscall.Credential, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	m.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = m.root
	cmd.Env = m.env()
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	return cmd
}

// run runs a command and returns its output.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.command(m.onewake, args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// rcSubr replaces rc.subr(8), so that rc.d/onewake prints what it would start.
const rcSubr = `
load_rc_config() { . "$ROOT/etc/rc.conf"; }
checkyesno() { eval "case \$$1 in [Yy][Ee][Ss]) return 0;; esac; return 1"; }
warn() { echo "$*" >&2; }
err() { shift; echo "$*" >&2; exit 1; }
run_rc_command() { eval "printf '%s\0' $command $ow_log /usr/bin/env $ow_env $procname $ow_args"; }
`

// rcWords are the words of the command line that rc.d/onewake would start, by the
// settings that sysrc has made and those that the test adds: daemon(8) and its flags
// for the log, env(1), its variables, onewake, its arguments.
func (m *machine) rcWords(name string, settings ...string) []string {
	m.t.Helper()
	me, err := user.Current()
	if m.onewake != nil {
		me, err = user.LookupId(fmt.Sprint(m.onewake.Uid))
	}
	if err != nil {
		m.t.Fatal(err)
	}
	conf, _ := os.ReadFile(m.root + "/etc/rc.conf")
	conf = fmt.Appendf(conf, "%s_user=%s\n%s\n", name, me.Username, strings.Join(settings, "\n"))
	m.write(m.root+"/etc/rc.conf", string(conf), 0o644)
	m.write(m.root+"/etc/rc.subr", rcSubr, 0o644)
	text := change(m.t, shipped(m.t, "rc.d/onewake"), ". /etc/rc.subr", "rc_service="+name+"; . "+m.root+"/etc/rc.subr")
	path := m.write(m.root+"/etc/"+name, text, 0o644)
	out, err := m.command(m.onewake, "/bin/sh", path, "start").CombinedOutput()
	words := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if err != nil || !slices.Contains(words, m.program()) {
		m.t.Fatalf("%s starts nothing: %v\n%s", name, err, out)
	}
	return words
}

// ready returns the launch of onewake as rc.d/onewake would start it.
func (m *machine) ready(name string, settings ...string) launch {
	m.t.Helper()
	words := m.rcWords(name, settings...)
	words = words[slices.Index(words, "/usr/bin/env"):]
	i := slices.Index(words, m.program())
	l := launch{raw: true, bin: words[i], args: words[i+1:], before: words[:i], env: m.env(), cred: m.onewake, dir: m.root + "/var/run/" + name}
	// As the script makes it: only the web server's group gets through.
	m.mkdir("/var/run/"+name, 0o755)
	if m.www != nil {
		if err := os.Chown(l.dir, int(m.onewake.Uid), int(m.www.Gid)); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := os.Chmod(l.dir, 0o750|os.ModeSetgid); err != nil { // FreeBSD gives files the directory's group in any case
		m.t.Fatal(err)
	}
	return l
}

// service starts it.
func (m *machine) service(name string, settings ...string) *server {
	m.t.Helper()
	s := m.ready(name, settings...).start(m.t)
	s.path = strings.TrimPrefix(s.addr, "unix:")
	return s
}

// console runs the console blocks of a page and compares their output.
func (m *machine) console(r recipe) {
	m.t.Helper()
	n := 0
	for _, b := range r.blocks {
		if b.lang != "console" {
			continue
		}
		command, want := "", ""
		check := func() {
			if command == "" {
				return
			}
			n++
			cmd := m.command(m.onewake, "/bin/sh", "-c", standins+"set +e\n"+command)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			cmd.Run()
			pattern := strings.ReplaceAll(regexp.QuoteMeta(want), "…\n", "(?s:.*)")
			pattern = strings.ReplaceAll(pattern, "…", ".*")
			if !regexp.MustCompile(`^` + pattern + `$`).MatchString(out.String()) {
				m.t.Errorf("%s:%d: %s\nprints\n%swant\n%s", r.name, b.line, command, &out, want)
			}
		}
		for line := range strings.Lines(m.here(b.text)) {
			if rest, ok := strings.CutPrefix(line, "$ "); ok {
				check()
				command, want = rest, ""
			} else if strings.HasSuffix(command, "\\\n") {
				command += line
			} else {
				want += line
			}
		}
		check()
	}
	if n == 0 {
		m.t.Errorf("%s: no commands to try", r.name)
	}
}

// startSite starts nginx with one server that has the locations of all pages
// that have been followed. It returns the address, for which 127.0.0.1 then
// stands.
func (m *machine) startSite(more string) (addr string) {
	m.t.Helper()
	m.follow(readRecipe(m.t, "nginx.md").only("A path"))
	w := startWeb(m.t, "nginx", webConfig{
		dir:    m.here("/usr/local/etc/nginx"),
		global: "include onewake_map.conf;",
		site:   "include onewake/*.conf;\n" + m.here(more),
	})
	m.isAt(w)
	return w.addr
}

// isAt replaces the web server's address in a page.
func (m *machine) isAt(w *webServer) {
	to := strings.TrimPrefix(w.addr, "tcp:") + "/"
	m.replace = append(m.replace, "127.0.0.1/", to, "https://example.org/", "http://"+to)
}

// behind follows a page that uses nginx as nginx.md shows, starts nginx and
// returns its address.
func (m *machine) behind(r recipe) (addr string) {
	m.t.Helper()
	m.follow(readRecipe(m.t, "nginx.md").only("A server of its own"))
	m.follow(r)
	w := fronts[0].start(m)
	m.isAt(w)
	return w.addr
}

// only returns the part of a page below a heading.
func (r recipe) only(head string) recipe {
	r.blocks = slices.DeleteFunc(slices.Clone(r.blocks), func(b recipeBlock) bool { return b.head != head })
	return r
}
