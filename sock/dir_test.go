package sock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// causes lists what is wrong with the directories of a socket, such as "above a"
// for a parent with another owner, and "writable a 0022". Paths are relative to top.
func causes(err error, top string) (all []string) {
	names := map[Cause]string{DirOwner: "owner", ParentOwner: "above", DirWritable: "writable", ForeignLink: "link"}
	errs := []error{err}
	if list := (*multierror.Error)(nil); errors.As(err, &list) {
		errs = list.Errors
	}
	for _, err := range errs {
		var e *Error
		switch {
		case err == nil:
		case !errors.As(err, &e) || !errors.Is(err, ErrUnsafeDir):
			all = append(all, err.Error())
		case e.Mode != 0:
			all = append(all, fmt.Sprintf("%s %s %04o", names[e.Cause], strings.TrimPrefix(e.Path, top), uint32(e.Mode)))
		default:
			all = append(all, names[e.Cause]+" "+strings.TrimPrefix(e.Path, top))
		}
	}
	return all
}

func TestDirectory(t *testing.T) {
	for _, tt := range []struct {
		name string
		mode os.FileMode
		bits os.FileMode // that make it unsafe
		who  string
	}{
		{"ours alone", 0o700, 0, ""},
		{"others read", 0o755, 0, ""},
		{"set-gid", 0o2750, 0, ""},
		{"group writes", 0o770, 0o020, "its group"},
		{"others write", 0o707, 0o002, "others"},
		{"all write", 0o777, 0o022, "its group and others"},
		{"sticky", 0o1777, 0, ""},
	} {
		for _, where := range []string{"own", "above"} {
			t.Run(tt.name+", "+where, func(t *testing.T) {
				dir := tempDir(t)
				below, suffix := dir, ""
				if where == "above" {
					below, suffix = filepath.Join(dir, "a", "b"), ", and the socket is below it"
					if err := os.MkdirAll(below, 0o700); err != nil {
						t.Fatal(err)
					}
				}
				// On the BSDs it has the group of /tmp, and only members of the group
				// can set the set-gid bit.
				chown(t, dir, -1, os.Getegid())
				chmod(t, dir, tt.mode)
				for _, err := range both(below+"/s", mode(0o600)) {
					if tt.bits == 0 {
						if err != nil {
							t.Error(err)
						}
						continue
					}
					var e *Error
					if !errors.Is(err, ErrUnsafeDir) || errors.Is(err, ErrUnsafeLock) || !errors.As(err, &e) ||
						e.Cause != DirWritable || e.Path != dir || e.Mode != tt.bits ||
						err.Error() != "listen unix:"+below+"/s: "+dir+": writable by "+tt.who+suffix {
						t.Errorf("got %v", err)
					}
				}
				if tt.bits != 0 && exists(below+"/.s.lock") {
					t.Error("a lock file was created")
				}
			})
		}
	}
}

// Root rejects another user's directory as well: its owner can replace the socket.
func TestForeignOwner(t *testing.T) {
	needRoot(t)
	top := tempDir(t)
	for _, x := range []element{{"ours", 0o755, nobody, nobody, ""}, {"ours/run", 0o700, 0, 0, ""}, {"run", 0o700, nobody, nobody, ""}} {
		x.make(t, top+"/")
	}
	for dir, want := range map[string]string{"/run": "owner /run", "/ours/run": "above /ours"} {
		for _, err := range both(top+dir+"/s", mode(0o600)) {
			if got := strings.Join(causes(err, top), ", "); got != want {
				t.Errorf("got %s, want %s: %v", got, want, err)
			}
		}
	}
}

// both returns the errors of Check and Listen.
func both(path string, spec perms.Spec) []error {
	_, cerr := check(path, spec)
	l, err := listenAt(path, spec)
	if err == nil {
		l.Close()
	}
	return []error{cerr, err}
}

func TestNoDirectory(t *testing.T) {
	top := tempDir(t)
	mkdir := func(name string, mode os.FileMode) {
		if err := errors.Join(os.Mkdir(filepath.Join(top, name), 0o700), unix.Chmod(filepath.Join(top, name), uint32(mode))); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(top, name)); err != nil {
			t.Fatal(err)
		}
	}
	mkdir("readonly", 0o500)
	mkdir("unreadable", 0o300)
	mkdir("unsearchable", 0o600)
	if err := os.WriteFile(filepath.Join(top, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link("loop", "loop")
	link("no/such", "dangling")
	link("file", "tofile")
	for _, tt := range []struct {
		dir   string
		kind  error
		cause Cause
		text  string // of $T
		root  bool   // root gets it too
	}{
		{"missing", fs.ErrNotExist, NoDir, "$T/missing: no such file or directory", true},
		{"missing/below", fs.ErrNotExist, NoDir, "$T/missing/below: no such file or directory", true},
		{"dangling", fs.ErrNotExist, NoDir, "$T/dangling: no such file or directory", true},
		{"file", unix.ENOTDIR, Other, "$T/file: not a directory, use a path in one", true},
		{"file/below", unix.ENOTDIR, Other, "$T/file: not a directory, use a path in one", true},
		{"tofile", unix.ENOTDIR, Other, "$T/file: not a directory, use a path in one", true},
		{"loop", unix.ELOOP, Other, "readlink $T/loop: " + unix.ELOOP.Error(), true},
		{"readonly", fs.ErrPermission, Other, "$T/readonly: permission denied: user $U cannot create a socket there, use a directory of its own", false},
		{"unreadable", fs.ErrPermission, Other, "$T/unreadable: permission denied: user $U cannot read it, use a directory of its own", false},
		{"unsearchable/below", fs.ErrPermission, Other, "$T/unsearchable: permission denied: user $U cannot enter it, use a directory of its own", false},
	} {
		t.Run(tt.dir, func(t *testing.T) {
			if os.Geteuid() == 0 && !tt.root {
				t.Skip("permitted for root; TestOrdinaryUser runs this")
			}
			fill := strings.NewReplacer("$T", top, "$U", perms.UserName(os.Geteuid()))
			path := filepath.Join(top, tt.dir, "s")
			for _, err := range both(path, mode(0o600)) {
				var e *Error
				if !errors.Is(err, tt.kind) || errors.Is(err, ErrUnsafeDir) || errors.As(err, &e) != (tt.cause != Other) && e.Cause != tt.cause ||
					fmt.Sprint(err) != "listen unix:"+path+": "+fill.Replace(tt.text) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
}

// walk resolves a path as the kernel does.
func TestWalk(t *testing.T) {
	top, err := filepath.EvalSymlinks(tempDir(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"a/b/c", "x/y/z"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"rel": "a/b", "abs": top + "/x/y", "a/up": "../x", "x/y/deep": "../../rel/c", "chain": "x/../a/up/y/deep/",
		"dot": "./././a//b/", "root": "/", "tworoots": "/../.." + top + "/a", "out": "abs/../../a/b/../b",
	} {
		if err := os.Symlink(target, filepath.Join(top, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{
		"", "a", "a/b/c", "rel", "rel/c", "abs/z", "a/up", "a/up/y/deep", "chain", "dot/c", "root" + top + "/a/b", "tworoots/b", "out", "out/c",
	} {
		dir = filepath.Join(top, dir)
		want, err := filepath.EvalSymlinks(dir)
		if err != nil {
			t.Fatal(err)
		}
		w, err := walk(dir)
		if err != nil || w.at != want || len(w.errs) > 0 {
			t.Errorf("walk %s: at %s, want %s, %v, %v", dir, w.at, want, w.errs, err)
		}
		st, err := lstat(want)
		if err != nil || !w.st.sameFile(st) {
			t.Errorf("walk %s: another directory", dir)
		}
		// A client can connect by the original path.
		l := listen(t, filepath.Join(dir, "s"), mode(0o600))
		talk(t, l)
		if !exists(filepath.Join(want, "s")) {
			t.Errorf("%s: no socket in %s", dir, want)
		}
		l.Close()
	}
}

func init() {
	roles["attack"] = childAttack
	roles["try"] = childTry
}

// childAttack tries to replace each file in a line with a directory of its own.
func childAttack(_ context.Context, _ string) error {
	for {
		line, err := stdin.ReadString('\n')
		if err != nil {
			return nil
		}
		moved := []string{}
		for _, name := range strings.Fields(line) {
			if os.Rename(name, name+".old") == nil {
				if err := os.Mkdir(name, 0o777); err != nil {
					return fmt.Errorf("moved but not replaced: %w", err)
				}
				moved = append(moved, name)
			}
		}
		fmt.Println(strings.Join(moved, ", "))
	}
}

// childTry reports why Listen and Check reject a directory.
func childTry(_ context.Context, _ string) error {
	for {
		line, err := stdin.ReadString('\n')
		if err != nil {
			return nil
		}
		top, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		errs := both(top+dir+"/s", mode(0o600))
		if fmt.Sprint(errs[0]) != fmt.Sprint(errs[1]) {
			return fmt.Errorf("Check: %v, Listen: %v", errs[0], errs[1])
		}
		fmt.Println(strings.Join(causes(errs[0], top), ", "))
	}
}

// An element of a path: a directory, or a symbolic link if there is a target.
type element struct {
	path     string
	mode     os.FileMode
	uid, gid int
	target   string
}

func (x element) make(t *testing.T, top string) {
	t.Helper()
	var err error
	if x.target != "" {
		err = os.Symlink(x.target, top+x.path)
	} else {
		err = os.Mkdir(top+x.path, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	chown(t, top+x.path, x.uid, x.gid)
	if x.target == "" {
		chmod(t, top+x.path, x.mode)
	}
}

// If another user can replace a directory or link in the path of the socket, Listen
// rejects the path. A process of that user tries to replace them.
func TestSwap(t *testing.T) {
	needRoot(t)
	const us, attacker, theirs, foreign = nobody, 12345, 54321, 4711
	type elements []element // the last one is the socket's directory
	own := func(path string, mode os.FileMode) element { return element{path, mode, us, us, ""} }
	dir := func(path string, mode os.FileMode, uid, gid int) element { return element{path, mode, uid, gid, ""} }
	link := func(path, target string, uid int) element { return element{path, 0, uid, uid, target} }
	base := tempDir(t)
	chmod(t, base, 0o755)
	victim := start(t, "try", "", &syscall.Credential{Uid: us, Gid: us})
	attacking := start(t, "attack", "", &syscall.Credential{Uid: attacker, Gid: attacker, Groups: []uint32{attacker, theirs}})
	for i, tt := range []struct {
		name  string
		path  elements
		moved string // by the attacker
		want  string // why Listen rejects it
	}{
		{"the user's own", elements{own("a", 0o755), own("a/b", 0o700), own("a/b/run", 0o700)}, "", ""},
		{"below root's", elements{dir("a", 0o755, 0, 0), dir("a/b", 0o2755, 0, theirs), dir("a/b/run", 0o750, us, theirs)}, "", ""},
		{"a parent of mode 0777", elements{dir("a", 0o777, 0, 0), own("a/b", 0o755), own("a/b/run", 0o750)}, "a/b", "writable a 0022"},
		{"a parent's group", elements{dir("a", 0o755, 0, 0), dir("a/b", 0o775, 0, theirs), own("a/b/run", 0o750)}, "a/b/run", "writable a/b 0020"},
		{"our own with a group", elements{dir("a", 0o775, us, theirs), own("a/run", 0o750)}, "a/run", "writable a 0020"},
		{"a group he is not in", elements{dir("a", 0o775, 0, foreign), own("a/run", 0o750)}, "", "writable a 0020"},
		{"others by mode 0757", elements{dir("a", 0o757, 0, 0), own("a/run", 0o750)}, "a/run", "writable a 0002"},
		{"his parent", elements{dir("a", 0o755, attacker, attacker), dir("a/b", 0o755, 0, 0), own("a/b/run", 0o750)}, "a/b", "above a"},
		{"his directory", elements{dir("a", 0o755, 0, 0), dir("a/run", 0o777, attacker, attacker)}, "", "owner a/run, writable a/run 0022"},
		{"somebody else's parent", elements{dir("a", 0o755, foreign, foreign), own("a/run", 0o750)}, "", "above a"},
		{"sticky", elements{dir("a", 0o1777, 0, 0), own("a/b", 0o755), own("a/b/run", 0o750)}, "", ""},
		{"sticky, root's below", elements{dir("a", 0o1777, 0, 0), dir("a/b", 0o755, 0, 0), own("a/b/run", 0o750)}, "", ""},
		{"sticky, his below", elements{dir("a", 0o1777, 0, 0), dir("a/b", 0o755, attacker, attacker), own("a/b/run", 0o750)}, "a/b/run, a/b", "above a/b"},
		{"his sticky one", elements{dir("a", 0o1777, attacker, attacker), own("a/run", 0o750)}, "a/run", "above a"},
		{"a link", elements{dir("a", 0o755, 0, 0), own("a/b", 0o750), link("run", "a/b", us)}, "", ""},
		{"his link, which only root can replace", elements{own("a", 0o750), link("run", "a", attacker)}, "", ""},
		{"a link where he can write", elements{dir("w", 0o777, 0, 0), own("a", 0o750), link("w/run", "../a", us)}, "w/run", "writable w 0022"},
		{"our link, sticky", elements{dir("w", 0o1777, 0, 0), own("a", 0o750), link("w/run", "../a", us)}, "", ""},
		{"root's link, sticky", elements{dir("w", 0o1777, 0, 0), own("a", 0o750), link("w/run", "../a", 0)}, "", ""},
		{"his link, sticky", elements{dir("w", 0o1777, 0, 0), own("a", 0o750), link("w/run", "../a", attacker)}, "w/run", "link w/run"},
		{"a link to where he can write", elements{dir("w", 0o777, 0, 0), own("w/b", 0o755), own("w/b/c", 0o750), link("run", "w/b/c", 0)}, "w/b", "writable w 0022"},
		{"a link there and back", elements{dir("w", 0o777, 0, 0), own("w/b", 0o755), own("a", 0o750), link("run", "w/b/../../a", 0)}, "w/b", "writable w 0022"},
		{"a link to a link of his", elements{dir("w", 0o1777, 0, 0), own("a", 0o750), link("w/x", "../a", attacker), link("run", "w/x", 0)}, "w/x", "link w/x"},
		{"everything at once", elements{dir("a", 0o777, foreign, foreign), own("a/b", 0o770), own("a/b/run", 0o707)}, "a/b",
			"above a, writable a 0022, writable a/b 0020, writable a/b/run 0002"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			top := fmt.Sprintf("%s/%d/", base, i)
			if err := os.Mkdir(top, 0o755); err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, x := range tt.path {
				x.make(t, top)
				names = append([]string{top + x.path}, names...)
			}
			got := victim.ask(t, top+" "+tt.path[len(tt.path)-1].path)
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			moved := strings.ReplaceAll(attacking.ask(t, strings.Join(names, " ")), top, "")
			if moved != tt.moved {
				t.Errorf("the attacker moved %q, expected %q", moved, tt.moved)
			}
			if moved != "" && got == "" {
				t.Error("the path was accepted")
			}
		})
	}
}
