package build

import (
	"cmp"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/patchbay-dev/patchbay/core/plugin"
)

// faultPath is where a Source stands in a manifest.
const faultPath = "spec.goplugin.source"

const github = "github.com"

var (
	digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)
	githubPattern = regexp.MustCompile(`^/([A-Za-z0-9][A-Za-z0-9-]*)/([A-Za-z0-9._-]+)$`)
)

// A Source says where a plugin comes from, if it is no executable on this machine.
type Source struct {
	Folder string `json:"folder,omitempty" doc:"A folder with a Go package main, on the daemon's machine; a relative path starts from metadata.source. It is built within its module, the nearest folder upwards that has a go.mod."`
	URL    string `json:"url,omitempty" doc:"A GitHub repository, as github.com/OWNER/NAME, with commit; or the https URL of source in a .tar.gz or .zip, or of an executable for Linux, with digest. The daemon has to allow it: patchbay serve --allow-source."`
	Commit string `json:"commit,omitempty" doc:"The commit of the GitHub repository, all 40 digits."`
	Digest string `json:"digest,omitempty" doc:"sha256: and the digits that sha256sum prints of what the URL gives."`
	// Package is for repositories with more than one.
	Package string `json:"package,omitempty" doc:"The folder with package main below what the URL gives; by default its top."`
}

// Check reports every fault of s, and what this daemon does not allow or lacks.
func (b *Builder) Check(s Source, faults *plugin.Faults) {
	fault := func(field, format string, args ...any) { faults.Add(faultPath+field, format, args...) }
	switch {
	case (s.Folder == "") == (s.URL == ""):
		fault("", "has to have either folder or url")
		return
	case b.options.Dir == "":
		fault("", "cannot be built here: there is no data folder")
		return
	case s.Folder != "":
		b.checkFolder(s, fault)
		return
	}
	u, err := parse(s.URL)
	if err != "" {
		fault(".url", "%s", err)
		return
	}
	if !b.allows(u) {
		fault(".url", "%s is not allowed on this daemon; start it with --allow-source %s", u.Host+u.Path, u.Host+path.Dir(u.Path))
	}
	if s.Package != "" && !filepath.IsLocal(s.Package) {
		fault(".package", "%q is not below the source", s.Package)
	}
	checkPin(s, u, fault)
}

func (b *Builder) checkFolder(s Source, fault func(field, format string, args ...any)) {
	for field, value := range map[string]string{"commit": s.Commit, "digest": s.Digest, "package": s.Package} {
		if value != "" {
			fault("."+field, "is for url; leave it out")
		}
	}
	if !filepath.IsAbs(s.Folder) {
		fault(".folder", "%q is relative, and metadata.source is missing; write the absolute path", s.Folder)
	} else if info, err := os.Stat(s.Folder); err != nil || !info.IsDir() {
		fault(".folder", "%s is not a folder of the daemon's machine", s.Folder)
	} else if _, err := moduleOf(s.Folder); err != nil {
		fault(".folder", "%v", err)
	}
	if _, err := exec.LookPath("go"); err != nil {
		fault("", "cannot be built here: go is not in the daemon's PATH; install Go, or build the plugin elsewhere and give its path as command")
	}
}

func checkPin(s Source, u *url.URL, fault func(field, format string, args ...any)) {
	repository := u.Host == github && githubPattern.MatchString(u.Path)
	switch {
	case s.Commit != "" && !repository:
		fault(".commit", "is for a repository, github.com/OWNER/NAME; pin other URLs by digest")
	case s.Commit != "" && !commitPattern.MatchString(s.Commit):
		fault(".commit", "is not all 40 hexadecimal digits of a commit; git rev-parse prints them")
	case s.Commit == "" && repository:
		fault(".commit", "is missing; a repository changes, so write the 40 digits of the commit to build")
	case s.Commit == "" && s.Digest == "":
		fault(".digest", "is missing; what a URL gives may change, so write what sha256sum prints of it, behind sha256:")
	}
	if s.Digest != "" && !digestPattern.MatchString(s.Digest) {
		fault(".digest", "is not sha256: and 64 hexadecimal digits; sha256sum prints them")
	}
}

// parse reads a URL without its scheme, too; fault says what is wrong with it.
func parse(text string) (u *url.URL, fault string) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return nil, "is not a URL; write https://HOST/PATH"
	case u.Scheme != "https":
		return nil, "is " + u.Scheme + "; only https is downloaded"
	case u.User != nil || u.Fragment != "" || u.RawQuery != "":
		return nil, "has a user, a query or a fragment; only https://HOST/PATH is downloaded"
	case u.RawPath != "" || u.Path != cmp.Or(strings.TrimSuffix(path.Clean(u.Path), "/"), "/") && u.Path != "":
		return nil, "has a path with .., // or escaped characters, or that ends in /; write it out"
	}
	u.Host = strings.ToLower(u.Host)
	if u.Host == github {
		u.Path = strings.TrimSuffix(u.Path, ".git")
	}
	return u, ""
}

// allows reports whether the daemon's list has the URL, or what it lies under.
func (b *Builder) allows(u *url.URL) bool {
	for _, prefix := range b.options.Allowed {
		prefix = strings.TrimSuffix(strings.TrimPrefix(prefix, "https://"), "/")
		if rest, ok := strings.CutPrefix(u.Host+u.Path, prefix); ok && prefix != "" && (rest == "" || rest[0] == '/') {
			return true
		}
	}
	return false
}

// download is what to get: of a repository, GitHub's archive of the commit.
func (s Source) download(u *url.URL) string {
	if s.Commit == "" {
		return u.String()
	}
	return "https://codeload.github.com" + u.Path + "/tar.gz/" + s.Commit
}
