package scripts

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestFind(t *testing.T) {
	names := Names{"a", "a/b.cgi", "c.cgi", "d/e/f/g", "x y"}
	for _, tt := range []struct{ path, name, info string }{
		{"/a", "a", ""}, {"/a/", "a", "/"}, {"/a/x", "a", "/x"}, {"/a/b.cgi", "a/b.cgi", ""}, {"/a/b.cgi/c/d", "a/b.cgi", "/c/d"},
		{"/a/b.cgix", "a", "/b.cgix"}, {"/ab", "", ""}, {"/c.cgi/../a", "c.cgi", "/../a"}, {"/d/e/f/g/h", "d/e/f/g", "/h"}, {"/d/e", "", ""},
		{"/x y/z", "x y", "/z"}, {"", "", ""}, {"/", "", ""}, {"a", "", ""}, {"//a", "", ""}, {"/../a", "", ""},
	} {
		name, info, ok := names.Find(tt.path)
		if name != tt.name || info != tt.info || ok != (tt.name != "") {
			t.Errorf("%q: %q %q %v, want %q %q", tt.path, name, info, ok, tt.name, tt.info)
		}
	}
	if name, _, ok := Names(nil).Find("/a"); ok {
		t.Errorf("found %q in an empty list", name)
	}
}

// tree creates a directory that only we can write.
func tree(t *testing.T, files map[string]os.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	for name, mode := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, mode) // despite the umask
	}
	return dir
}

func TestRead(t *testing.T) {
	dir := tree(t, map[string]os.FileMode{
		"a.cgi": 0o755, "sub/b": 0o755, "1/2/3/d": 0o755, "1/2/3/4/e": 0o755, ".hidden": 0o755, ".dir/f": 0o755,
		"plain": 0o644, "open": 0o757, "group": 0o775, "loose/g": 0o755,
		"caf\xe9": 0o755, "latin\xe9/h": 0o755,
	})
	os.Chmod(filepath.Join(dir, "loose"), 0o757)
	os.Symlink("/bin/sh", filepath.Join(dir, "link"))
	os.Symlink("/nonexistent", filepath.Join(dir, "broken"))
	os.Symlink("sub", filepath.Join(dir, "dirlink"))
	syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o755)
	table, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Names{"1/2/3/d", "a.cgi", "group", "link", "sub/b"}); !slices.Equal(table.Names(), want) {
		t.Errorf("%q, want %q", table.Names(), want)
	}
	for name, why := range map[string]string{
		"plain": "cannot execute", "open": "others can write", "loose": "others can write", "broken": "no such file", "dirlink": "not a regular",
		"fifo": "not a regular", "1/2/3/4": "more than 4 levels", "caf\xe9": "not UTF-8", "latin\xe9": "not UTF-8",
	} {
		if err := table.Skipped[name]; err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", name, err, why)
		}
		delete(table.Skipped, name)
	}
	if len(table.Skipped) > 0 {
		t.Errorf("%v", table.Skipped)
	}
}

// A link to another user's file is not followed.
func TestForeignLink(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can change the owner of a file")
	}
	dir, other := tree(t, nil), tree(t, map[string]os.FileMode{"x": 0o755})
	os.Chown(filepath.Join(other, "x"), 12345, 12345)
	os.Symlink(filepath.Join(other, "x"), filepath.Join(dir, "x"))
	table, err := Read(dir)
	if err != nil || len(table.Names()) != 0 || table.Skipped["x"] == nil {
		t.Errorf("%v, %v, %v", err, table.Names(), table.Skipped)
	}
}

func TestUnsafe(t *testing.T) {
	dir := tree(t, map[string]os.FileMode{"d/a": 0o755})
	os.Chmod(dir, 0o757)
	for _, d := range []string{dir, filepath.Join(dir, "d")} { // the directory, and one below it
		if _, err := Read(d); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v", d, err)
		}
	}
	os.Chmod(dir, 0o757|fs.ModeSticky)
	if _, err := Read(filepath.Join(dir, "d")); err != nil {
		t.Errorf("below a sticky directory: %v", err)
	}
	// The same if the path has symbolic links.
	links := tree(t, nil)
	os.Symlink(filepath.Join(dir, "d"), filepath.Join(links, "direct"))
	os.Symlink("direct", filepath.Join(links, "twice"))
	os.Symlink("../"+filepath.Base(links)+"/direct/..", filepath.Join(links, "up"))
	os.Symlink("loop", filepath.Join(links, "loop"))
	os.Chmod(dir, 0o757)
	for _, name := range []string{"direct", "twice", "up/d", "up"} {
		if _, err := Read(filepath.Join(links, name)); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v", name, err)
		}
	}
	os.Chmod(dir, 0o755)
	for _, name := range []string{"direct", "twice", "up/d", "up"} {
		if table, err := Read(filepath.Join(links, name)); err != nil || len(table.Names()) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Read(filepath.Join(links, "loop")); !errors.Is(err, syscall.ELOOP) {
		t.Error(err)
	}
	for _, relative := range []string{"", ".", "d"} {
		if _, err := Read(relative); err == nil {
			t.Errorf("no error for %q", relative)
		}
	}
	if _, err := Read(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Read(filepath.Join(dir, "d/a")); !errors.Is(err, syscall.ENOTDIR) {
		t.Error(err)
	}
}

// Path checks the file again: a new version is used, and a missing or unsafe file
// is not.
func TestPath(t *testing.T) {
	dir := tree(t, map[string]os.FileMode{"a": 0o755, "b": 0o755, "c": 0o755})
	table, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if path, err := table.Path("a"); path != filepath.Join(dir, "a") || err != nil {
		t.Errorf("%q %v", path, err)
	}
	if path, err := table.Path("../a"); path != "" || err == nil {
		t.Errorf("%q %v", path, err)
	}
	os.WriteFile(filepath.Join(dir, "new"), []byte("#!/bin/sh\n"), 0o755)
	os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "a"))
	if path, err := table.Path("a"); path != filepath.Join(dir, "a") || err != nil {
		t.Errorf("a new version: %q %v", path, err)
	}
	os.Remove(filepath.Join(dir, "b"))
	os.Chmod(filepath.Join(dir, "c"), 0o757)
	for _, name := range []string{"b", "c"} {
		if _, err := table.Path(name); err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
