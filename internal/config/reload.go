package config

import (
	"reflect"
	"slices"
)

// needsRestart lists the settings that a running program cannot change: its
// sockets, its ledger, and what requests under way rely on. All others, and
// the whole of CONFIG_FILE, are taken up on SIGHUP.
var needsRestart = []string{
	"OPENAI_BASE_URL", "PROVIDER_PROFILE", "QUEUE_MAX_BYTES", "PORT", "LISTEN_ADDR", "ADMIN_ADDR", "REPOSITORY_TYPE",
	"SQLITE_DSN", "POSTGRES_DSN", "LEDGER_JOURNAL", "LEDGER_DURABILITY", "SESSION_HEADER", "LOG_FORMAT", "CONFIG_FILE",
}

// Reread reads the settings again, from where they came from, and returns what can
// be read and what is wrong with it. Settings that need a restart stay as they are
// in c, and pending names them.
func (c *Config) Reread() (next *Config, faults []string) {
	return readConfig(c.sources, c)
}

// Renamed lists clients, as "old, now new", whose keys have no name and stand in another place than in old: they are other
// clients now, and may have got another's sessions.
func (c *Config) Renamed(old *Config) (moved []string) {
	for _, k := range c.ClientKeys {
		for _, was := range old.ClientKeys {
			if k.Key == was.Key && k.Name != was.Name && k.byPlace {
				moved = append(moved, was.Name+", now "+k.Name)
			}
		}
	}
	return moved
}

// ChangedFrom names the settings, and the sections of CONFIG_FILE, that differ.
func (c *Config) ChangedFrom(old *Config) []string {
	changed := []string{}
	for _, s := range settings {
		if c.texts[s.Name] != old.texts[s.Name] {
			changed = append(changed, s.Name)
		}
	}
	now, before := reflect.ValueOf(c.File), reflect.ValueOf(old.File)
	for i, field := range slices.Collect(now.Type().Fields()) {
		if field.Name != "Settings" && !reflect.DeepEqual(now.Field(i).Interface(), before.Field(i).Interface()) {
			changed = append(changed, field.Tag.Get("yaml"))
		}
	}
	return changed
}
