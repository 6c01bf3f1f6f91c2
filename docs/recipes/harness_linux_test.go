package recipes_test

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take that should come at once.
const patience = 15 * time.Second

var underTest string // onewake

func TestMain(m *testing.M) {
	flag.Parse()
	// Nearly all of the time is spent waiting for other processes.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		flag.Set("test.parallel", "6")
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "ow")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	underTest = filepath.Join(dir, "onewake")
	cmd := exec.Command("go", "build", "-o", underTest, "../..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Printf("%v\n%s", err, out)
		return 1
	}
	// Results depend on the sources of that binary as well, and on the pages.
	for _, pattern := range []string{"../../*.go", "../../*/*.go", "../../rc.d/*", "../*", "*"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			os.Stat(name)
		}
	}
	return m.Run()
}

// load reads a page of this directory.
func load(t *testing.T, name string) page {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := parse(name, string(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// only is the part of a page below one heading.
func (p page) only(head string) page {
	p.blocks = slices.DeleteFunc(slices.Clone(p.blocks), func(b block) bool { return b.head != head })
	return p
}

// need skips a test for want of a program, or another file of its package, and says how to get it, unless the
// machine is one where nothing may be missing.
func need(t *testing.T, debian string, paths ...string) string {
	t.Helper()
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	if os.Getenv("ONEWAKE_TEST_NOSKIP") == "1" {
		t.Fatalf("no %s (to get it: apt-get install %s)", paths[0], debian)
	}
	t.Skipf("no %s (to get it: apt-get install %s)", paths[0], debian)
	return ""
}

func needGit(t *testing.T) string    { return need(t, "git", "/usr/bin/git", "/usr/local/bin/git") }
func needPython(t *testing.T) string { return need(t, "python3", "/usr/bin/python3") }
func needCurl(t *testing.T) string   { return need(t, "curl", "/usr/bin/curl") }

// A machine is where a recipe is followed: a directory that stands for / and
// has what the recipe makes, and, if root runs the tests, two users: nobody is
// onewake, and www-data is www.
type machine struct {
	t       *testing.T
	root    string
	onewake *syscall.Credential // whom onewake and the recipe's commands run as; nil: whoever runs the tests
	www     *syscall.Credential
	replace []string // what else is different here, old and new
	daemon  []string // what the last service would start before onewake
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	root, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := filepath.Glob(root + "/*.log")
			for _, name := range logs {
				b, _ := os.ReadFile(name)
				t.Logf("%s:\n%s", filepath.Base(name), b[max(0, len(b)-3000):])
			}
		}
		os.RemoveAll(root)
	})
	m := &machine{t: t, root: root}
	if os.Geteuid() == 0 {
		m.onewake, m.www = credential(t, "nobody"), credential(t, "www-data")
	}
	for _, dir := range []string{"", "/usr/local/sbin", "/usr/local/etc/rc.d", "/usr/local/bin", "/usr/local/libexec", "/usr/local/etc/nginx", "/usr/local/share/examples/onewake", "/var/spool", "/var/run", "/var/tmp", "/var/log", "/etc"} {
		m.mkdir(dir, 0o755)
	}
	if err := os.Link(underTest, root+"/usr/local/sbin/onewake"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"nginx.conf", "newsyslog.conf", "jail.md"} { // as the Makefile installs them
		text, err := os.ReadFile("../" + name)
		if err != nil {
			t.Fatal(err)
		}
		m.write("/usr/local/share/examples/onewake/"+name, string(text), 0o644)
	}
	return m
}

func credential(t *testing.T, name string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{}}
}

// mkdir makes a directory of onewake's.
func (m *machine) mkdir(path string, mode os.FileMode) {
	m.t.Helper()
	path = m.root + path
	err := os.MkdirAll(path, 0o755)
	if err == nil && m.onewake != nil {
		for dir := path; err == nil && len(dir) >= len(m.root); dir = filepath.Dir(dir) {
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

// here is a text of a page as it has to be on this machine.
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

// FreeBSD's programs, as far as the pages use them.
const standins = `
set -e
sysrc() { for setting; do printf "%s='%s'\n" "${setting%%=*}" "$(printf %s "${setting#*=}" | sed "s/'/'\\\\''/g")" >>"$ROOT/etc/rc.conf"; done; }
service() { echo "$@" >>"$ROOT/service"; }
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

// follow does what a page says, but for its console blocks.
func (m *machine) follow(p page) {
	m.t.Helper()
	for _, b := range p.blocks {
		switch {
		case b.file != "":
			m.write(b.file, b.text, 0o644)
		case b.lang == "sh":
			cmd := m.command(m.onewake, "/bin/sh", "-c", standins+m.here(b.text))
			if out, err := cmd.CombinedOutput(); err != nil {
				m.t.Fatalf("%s:%d: %v\n%s", p.name, b.line, err, out)
			}
		}
	}
}

// write makes a file of a page.
func (m *machine) write(path, text string, mode os.FileMode) string {
	m.t.Helper()
	path = m.here(path)
	m.mkdir(strings.TrimPrefix(filepath.Dir(path), m.root), 0o755)
	syscall.ForkLock.RLock() // or a child of another test has it open for writing, and it cannot be executed
	defer syscall.ForkLock.RUnlock()
	err := os.WriteFile(path, []byte(m.here(text)), mode)
	if err == nil && m.onewake != nil {
		err = os.Chown(path, int(m.onewake.Uid), int(m.onewake.Gid))
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return path
}

// command is a program, run as that user, with a small environment.
func (m *machine) command(as *syscall.Credential, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	m.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = m.root
	cmd.Env = []string{
		"PATH=/sbin:/bin:/usr/sbin:/usr/bin", "LANG=C.UTF-8", "HOME=" + m.root, "ROOT=" + m.root,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
	}
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGTERM}
	return cmd
}

// run gives what a command prints.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	out, err := m.command(m.onewake, args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// start starts a server that writes to a log of that name.
func (m *machine) start(name string, cmd *exec.Cmd) *process {
	m.t.Helper()
	log, err := os.Create(filepath.Join(m.root, name+".log"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	p := &process{cmd: cmd, log: log.Name(), ended: make(chan struct{})}
	go func() { cmd.Wait(); close(p.ended) }()
	m.t.Cleanup(p.stop)
	return p
}

type process struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
}

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.ended
	}
}

func (p *process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// records are the lines of the log that have all of these.
func (p *process) records(parts ...string) (found []string) {
	b, _ := os.ReadFile(p.log)
lines:
	for line := range strings.Lines(string(b)) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue lines
			}
		}
		found = append(found, line)
	}
	return found
}

// rcSubr is what rc.d/onewake has to find in place of rc.subr(8) to tell what it
// would start.
const rcSubr = `
load_rc_config() { . "$ROOT/etc/rc.conf"; }
checkyesno() { eval "case \$$1 in [Yy][Ee][Ss]) return 0;; esac; return 1"; }
warn() { echo "$*" >&2; }
err() { shift; echo "$*" >&2; exit 1; }
run_rc_command() { eval "printf '%s\0' $command $command_args"; }
`

// service starts an onewake as rc.d/onewake would by the settings that sysrc has
// made, and those that the test adds.
func (m *machine) service(name string, settings ...string) *process {
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
	script, err := os.ReadFile("../../rc.d/onewake")
	if err != nil {
		m.t.Fatal(err)
	}
	text := strings.Replace(string(script), ". /etc/rc.subr", "rc_service="+name+"; . "+m.root+"/etc/rc.subr", 1)
	path := m.write(m.root+"/etc/"+name, text, 0o644)
	out, err := m.command(m.onewake, "/bin/sh", path).CombinedOutput()
	words := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	i := slices.Index(words, m.root+"/usr/local/sbin/onewake")
	if err != nil || i < 0 {
		m.t.Fatalf("%s starts nothing: %v\n%s", name, err, out)
	}
	m.daemon = words[:i]
	if j := slices.Index(m.daemon, "/usr/bin/env"); j >= 0 {
		i = j
	}
	// As the script makes it: only the web server's group gets through.
	dir := "/var/run/" + name
	m.mkdir(dir, 0o755)
	if m.www != nil {
		if err := os.Chown(m.root+dir, int(m.onewake.Uid), int(m.www.Gid)); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := os.Chmod(m.root+dir, 0o750|os.ModeSetgid); err != nil { // FreeBSD gives files the directory's group in any case
		m.t.Fatal(err)
	}
	p := m.start(name, m.command(m.onewake, words[i:]...))
	p.await(m.t, "msg", `"start"`)
	return p
}

// again starts a service that has been stopped.
func (m *machine) again(p *process) *process {
	m.t.Helper()
	p = m.start("again", m.command(m.onewake, p.cmd.Args...))
	p.await(m.t, "msg", `"start"`)
	return p
}

// await waits for a record, and gives it.
func (p *process) await(t *testing.T, parts ...string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if r := p.records(parts...); len(r) > 0 {
			return r[0]
		}
		if p.over() || time.Now().After(deadline) {
			t.Fatalf("%s has no %q", filepath.Base(p.log), parts)
		}
	}
}

// front starts a web server, whose command is made for an address to listen at,
// and gives that address.
func (m *machine) front(name string, make func(addr string) *exec.Cmd) string {
	m.t.Helper()
	for range 5 { // somebody else may take the port
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			m.t.Fatal(err)
		}
		addr := l.Addr().String()
		l.Close()
		p := m.start(name, make(addr))
		for deadline := time.Now().Add(patience); !p.over() && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if c, err := net.Dial("tcp4", addr); err == nil {
				c.Close()
				return addr
			}
		}
		p.stop()
	}
	m.t.Fatalf("%s does not start", name)
	return ""
}

// An answer is one to a request that was sent on a connection of its own.
type answer struct {
	status int
	header http.Header
	body   string
	err    error // the answer is not whole
}

// ask sends a request to a TCP address or the path of a socket.
func ask(t *testing.T, addr, method, target, body string, fields ...string) (a answer) {
	t.Helper()
	network := "tcp4"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	head := method + " " + target + " HTTP/1.1\r\nHost: example.org\r\n"
	if method != "GET" && !strings.Contains(strings.Join(fields, " "), "chunked") {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(body))
	}
	for _, f := range append(fields, "Connection: close") {
		head += f + "\r\n"
	}
	go io.WriteString(c, head+"\r\n"+body)
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return answer{err: err}
	}
	b, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, res.Header, string(b), err}
}

func (a answer) want(t *testing.T, status int, body string) {
	t.Helper()
	if a.err != nil || a.status != status || body != "" && a.body != body {
		t.Errorf("%d, %q, %v, want %d, %q", a.status, a.body, a.err, status, body)
	}
}

// console runs the console blocks of a page and compares what they print.
func (m *machine) console(p page) {
	m.t.Helper()
	for _, b := range p.blocks {
		if b.lang != "console" {
			continue
		}
		command, want := "", ""
		check := func() {
			if command == "" {
				return
			}
			cmd := m.command(m.onewake, "/bin/sh", "-c", standins+"set +e\n"+command)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			cmd.Run()
			pattern := strings.ReplaceAll(regexp.QuoteMeta(want), "…\n", "(?s:.*)")
			pattern = strings.ReplaceAll(pattern, "…", ".*")
			if !regexp.MustCompile(`^` + pattern + `$`).MatchString(out.String()) {
				m.t.Errorf("%s:%d: %s\nprints\n%swant\n%s", p.name, b.line, command, &out, want)
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
}
