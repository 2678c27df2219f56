//! JSON texts of one contract to the memory of Arrow columns, for the rows that are proven valid.
//!
//! `proveRows` interprets the tables that plan.py makes. It walks each value once. It proves every
//! rule of the contract, or gives the row up; a row that is given up says nothing about the value,
//! and the caller judges it by the exact path. All memory belongs to the caller and is read and
//! written through slices, whose bounds ReleaseSafe checks: what goes beyond them is a trap.
//!
//! Each cell has a position in its column: the row, or the item for what is inside a list. A row
//! that is given up leaves its positions to the next one.

const std = @import("std");
const text = @import("text.zig");

pub const panic = std.debug.no_panic; // a trap without words, which keeps the library small

const GivenUp = text.GivenUp;

// The layout of the tables. layout.py has the same; `layout` tells Python what this side has.

const Kind = enum(i64) {
    unknown,
    text,
    category,
    integer,
    number,
    decimal,
    boolean,
    time,
    date,
    json,
    object,
    list,
    _,
};

const TextFormat = enum(i64) { none, uuid, _ };

const Node = extern struct {
    kind: i64,
    is_nullable: i64,
    column: i64,
    first_child: i64,
    children: i64,
    /// Bits of children that must be there.
    required: u64,
    /// The column of unnamed fields; -1 if there is none.
    extra_column: i64,
    allows_unnamed: i64,
    first_condition: i64,
    conditions: i64,
    /// Of a text in code points, or of a list in items.
    min_length: i64,
    max_length: i64,
    first_category: i64,
    categories: i64,
    /// Where the states of a pattern begin, in rows of 256 bytes; -1 if there is none.
    pattern: i64,
    format: i64,
    min_integer: i64,
    max_integer: i64,
    has_minimum: i64,
    has_maximum: i64,
    is_minimum_exclusive: i64,
    is_maximum_exclusive: i64,
    minimum: f64,
    maximum: f64,
    /// Digits behind the point of a decimal, and the first whole number that it has no room for.
    scale: i64,
    decimal_limit: i64,
    /// Bits of `JsonType`.
    json_types: i64,
};

/// A named field of an object. The name has its quotes, as in a JSON text.
const Child = extern struct { name_at: i64, name_length: i64, node: i64 };

const Category = extern struct { at: i64, length: i64 };

/// If `needed` are there and `child`, if there, is of a category of `categories`, then `then` must
/// be there, otherwise `otherwise`. With `child` -1 only `needed` is asked.
const Condition = extern struct {
    child: i64,
    categories: u64,
    needed: u64,
    then: u64,
    otherwise: u64,
};

const Column = extern struct {
    /// One byte a cell: whether it has a value.
    valid: [*]u8,
    /// Ends of texts and lists; the first is 0.
    ends: [*]i32,
    data: [*]align(8) u8,
    cells: i64,
    bytes: i64,

    fn validity(self: *const Column) []u8 {
        return self.valid[0..@intCast(self.cells)];
    }

    fn endsOf(self: *const Column) []i32 {
        return self.ends[0..@intCast(self.cells + 1)];
    }

    fn bytesOf(self: *const Column) []align(8) u8 {
        return self.data[0..@intCast(self.bytes)];
    }

    fn cellsOf(self: *const Column, comptime T: type) []T {
        return @ptrCast(self.bytesOf()[0 .. @as(usize, @intCast(self.cells)) * @sizeOf(T)]);
    }
};

const Tables = extern struct {
    nodes: [*]const Node,
    node_count: i64,
    children: [*]const Child,
    child_count: i64,
    categories: [*]const Category,
    category_count: i64,
    conditions: [*]const Condition,
    condition_count: i64,
    names: [*]const u8,
    name_bytes: i64,
    patterns: [*]const u8,
    pattern_bytes: i64,
    columns: [*]const Column,
    column_count: i64,
    /// What the last text of a field was as a category, and which field came behind another.
    codes: [*]u8,
    guesses: [*]u8,
    max_value_bytes: i64,
    /// The node of the event time; -1 if rows are not given up for their times. Times in microseconds.
    event_time_node: i64,
    min_time: i64,
    max_time: i64,
    max_age: i64,
    max_skew: i64,
};

const Values = extern struct {
    data: [*]const u8,
    ends: [*]const i32,
    offset: i64,
    rows: i64,
    /// One byte a row: whether the value is null.
    is_null: [*]const u8,
    /// When each record was appended, in microseconds; read if there is an event time.
    append_times: [*]const i64,
};

const JsonType = struct {
    const string = 1;
    const integer = 2;
    const boolean = 4;
};

const max_unnamed = 16;
const no_code = 63;

/// The tables as slices, and a JSON text with how far it is read.
const Walk = struct {
    nodes: []const Node,
    children: []const Child,
    categories: []const Category,
    conditions: []const Condition,
    names: []const u8,
    patterns: []const u8,
    columns: []const Column,
    codes: []u8,
    guesses: []u8,
    reader: text.Reader,

    fn init(tables: *const Tables) Walk {
        const child_count: usize = @intCast(tables.child_count);
        return .{
            .nodes = tables.nodes[0..@intCast(tables.node_count)],
            .children = tables.children[0..child_count],
            .categories = tables.categories[0..@intCast(tables.category_count)],
            .conditions = tables.conditions[0..@intCast(tables.condition_count)],
            .names = tables.names[0..@intCast(tables.name_bytes)],
            .patterns = tables.patterns[0..@intCast(tables.pattern_bytes)],
            .columns = tables.columns[0..@intCast(tables.column_count)],
            .codes = tables.codes[0..child_count],
            .guesses = tables.guesses[0 .. child_count + 1],
            .reader = .{ .bytes = &.{} },
        };
    }

    fn columnOf(self: *const Walk, node: *const Node) *const Column {
        return &self.columns[@intCast(node.column)];
    }

    fn childrenOf(self: *const Walk, node: *const Node) []const Child {
        const first: usize = @intCast(node.first_child);
        return self.children[first..][0..@intCast(node.children)];
    }

    fn event(self: *Walk, row: usize) GivenUp!void {
        self.reader.skipSpace();
        try self.value(&self.nodes[0], null, row);
        self.reader.skipSpace();
        if (!self.reader.isAtEnd()) return error.GivenUp;
    }

    /// A value to the cell `at`; `child` is the field that it is the value of.
    fn value(self: *Walk, node: *const Node, child: ?usize, at: usize) GivenUp!void {
        const kind: Kind = @fromBackingInt(@intCast(node.kind));
        if (kind == .unknown) return error.GivenUp;
        const first = try self.reader.peek();
        if (first == 'n') {
            if (node.is_nullable == 0) return error.GivenUp;
            try self.reader.word("null");
            if (child) |index| self.codes[index] = no_code;
            return self.nullCell(node, at);
        }
        const column = self.columnOf(node);
        if (at >= column.validity().len) return error.GivenUp; // no room
        switch (kind) {
            .text => try self.textCell(node, child, at),
            .category => try self.categoryCell(node, child, at),
            .time => column.cellsOf(i64)[at] = try text.timeOf(try self.reader.plainText()),
            .date => column.cellsOf(i32)[at] = try text.dateOf(try self.reader.plainText()),
            .integer => column.cellsOf(i64)[at] = try self.integer(node),
            .number => column.cellsOf(f64)[at] = try self.number(node),
            .decimal => column.cellsOf(i64)[at] = try self.decimal(node),
            .boolean => column.bytesOf()[at] = @intFromBool(try self.reader.boolean()),
            .json => try self.jsonCell(node, at),
            .object => try self.object(node, at),
            .list => try self.list(node, at),
            else => return error.GivenUp,
        }
        column.validity()[at] = 1;
    }

    /// Null for a node and all below it.
    fn nullCell(self: *Walk, node: *const Node, at: usize) GivenUp!void {
        const kind: Kind = @fromBackingInt(@intCast(node.kind));
        if (kind == .unknown) return;
        const column = self.columnOf(node);
        if (at >= column.validity().len) return error.GivenUp;
        column.validity()[at] = 0;
        switch (kind) {
            .text, .json, .list => column.endsOf()[at + 1] = column.endsOf()[at],
            .category, .date => column.cellsOf(i32)[at] = 0,
            .integer, .number, .decimal, .time => column.cellsOf(i64)[at] = 0,
            .boolean => column.bytesOf()[at] = 0,
            .object => {
                for (self.childrenOf(node)) |*field| {
                    try self.nullCell(&self.nodes[@intCast(field.node)], at);
                }
                if (node.extra_column >= 0) {
                    const extra = &self.columns[@intCast(node.extra_column)];
                    extra.validity()[at] = 0;
                    extra.endsOf()[at + 1] = extra.endsOf()[at];
                }
            },
            else => return error.GivenUp,
        }
    }

    fn textCell(self: *Walk, node: *const Node, child: ?usize, at: usize) GivenUp!void {
        const column = self.columnOf(node);
        const begin: usize = @intCast(column.endsOf()[at]);
        const found = try self.reader.textInto(column.bytesOf()[begin..]);
        if (found.points < node.min_length or found.points > node.max_length) return error.GivenUp;
        const bytes = column.bytesOf()[begin..][0..found.length];
        if (node.pattern >= 0 and !self.matches(node, bytes)) return error.GivenUp;
        const is_uuid_asked = node.format == @backingInt(TextFormat.uuid);
        if (is_uuid_asked and !text.isUuid(bytes)) return error.GivenUp;
        if (node.categories > 0) {
            const code = self.categoryOf(node, bytes) orelse return error.GivenUp;
            if (child) |index| self.codes[index] = @intCast(code);
        }
        column.endsOf()[at + 1] = @intCast(begin + found.length);
    }

    fn categoryCell(self: *Walk, node: *const Node, child: ?usize, at: usize) GivenUp!void {
        const code = self.categoryOf(node, try self.reader.plainText()) orelse return error.GivenUp;
        if (child) |index| self.codes[index] = @intCast(@min(code, no_code));
        self.columnOf(node).cellsOf(i32)[at] = @intCast(code);
    }

    fn categoryOf(self: *const Walk, node: *const Node, bytes: []const u8) ?usize {
        const first: usize = @intCast(node.first_category);
        for (self.categories[first..][0..@intCast(node.categories)], 0..) |category, code| {
            const known = self.names[@intCast(category.at)..][0..@intCast(category.length)];
            if (std.mem.eql(u8, known, bytes)) return code;
        }
        return null;
    }

    /// Whether a text matches the node's pattern. State 0 accepts nothing, state 1 is the first. A
    /// state has 256 bytes: the next state for each byte, but the one for 0xFF, which is in no
    /// text, says whether a text may end in this state.
    fn matches(self: *const Walk, node: *const Node, bytes: []const u8) bool {
        const table = self.patterns[@as(usize, @intCast(node.pattern)) * 256 ..];
        var state: usize = 1;
        for (bytes) |byte| state = table[state * 256 + byte];
        return table[state * 256 + 255] == 1;
    }

    fn integer(self: *Walk, node: *const Node) GivenUp!i64 {
        const digits = try self.reader.number();
        if (digits.decimals != 0) return error.GivenUp;
        const whole = digits.signed();
        if (whole < node.min_integer or whole > node.max_integer) return error.GivenUp;
        return whole;
    }

    fn number(self: *Walk, node: *const Node) GivenUp!f64 {
        return checkBounds(node, try (try self.reader.number()).double());
    }

    fn decimal(self: *Walk, node: *const Node) GivenUp!i64 {
        const digits = try self.reader.number();
        _ = try checkBounds(node, try digits.double());
        if (digits.decimals > node.scale) return error.GivenUp; // it would be rounded
        var unscaled = digits.signed();
        for (0..@intCast(node.scale - digits.decimals)) |_| {
            const product = @mulWithOverflow(unscaled, 10);
            if (product[1] != 0) return error.GivenUp;
            unscaled = product[0];
        }
        if (unscaled >= node.decimal_limit or unscaled <= -node.decimal_limit) return error.GivenUp;
        return unscaled;
    }

    fn jsonCell(self: *Walk, node: *const Node, at: usize) GivenUp!void {
        const column = self.columnOf(node);
        const begin: usize = @intCast(column.endsOf()[at]);
        const found = try self.plainScalar();
        if (found.json_type & node.json_types == 0) return error.GivenUp;
        const end = try put(column, begin, found.bytes);
        column.endsOf()[at + 1] = @intCast(end);
    }

    const Scalar = struct { bytes: []const u8, json_type: i64 };

    /// A text, integer, boolean or null that msgspec would write by the same bytes.
    fn plainScalar(self: *Walk) GivenUp!Scalar {
        const begin = self.reader.at;
        const first = try self.reader.peek();
        var json_type: i64 = 0;
        switch (first) {
            '"' => {
                _ = try self.reader.plainText();
                json_type = JsonType.string;
            },
            't', 'f' => {
                _ = try self.reader.boolean();
                json_type = JsonType.boolean;
            },
            'n' => try self.reader.word("null"),
            else => {
                if ((try self.reader.number()).decimals != 0) return error.GivenUp;
                json_type = JsonType.integer;
            },
        }
        return .{ .bytes = self.reader.bytes[begin..self.reader.at], .json_type = json_type };
    }

    fn list(self: *Walk, node: *const Node, at: usize) GivenUp!void {
        const column = self.columnOf(node);
        const begin: usize = @intCast(column.endsOf()[at]);
        const item = &self.nodes[@intCast(node.first_child)];
        var next = begin;
        try self.reader.take('[');
        self.reader.skipSpace();
        if (!self.reader.takeIf(']')) {
            while (true) {
                self.reader.skipSpace();
                try self.value(item, null, next);
                next += 1;
                self.reader.skipSpace();
                if (self.reader.takeIf(']')) break;
                try self.reader.take(',');
            }
        }
        const items = next - begin;
        if (items < node.min_length or items > node.max_length) return error.GivenUp;
        column.endsOf()[at + 1] = @intCast(next);
    }

    fn object(self: *Walk, node: *const Node, at: usize) GivenUp!void {
        const fields = self.childrenOf(node);
        const first: usize = @intCast(node.first_child);
        var seen: u64 = 0;
        var unnamed = Unnamed{};
        var expected = first; // `guesses` has a place before each field and one behind the last
        try self.reader.take('{');
        self.reader.skipSpace();
        if (!self.reader.takeIf('}')) {
            while (true) {
                self.reader.skipSpace();
                const name = try self.reader.quotedName();
                self.reader.skipSpace();
                try self.reader.take(':');
                self.reader.skipSpace();
                if (self.fieldOf(fields, expected, name)) |index| {
                    const bit = @as(u64, 1) << @intCast(index);
                    if (seen & bit != 0) return error.GivenUp; // a repeated name
                    seen |= bit;
                    const child = first + index;
                    try self.value(&self.nodes[@intCast(fields[index].node)], child, at);
                    expected = child + 1;
                } else {
                    if (node.allows_unnamed == 0) return error.GivenUp;
                    try unnamed.add(name, (try self.plainScalar()).bytes);
                }
                self.reader.skipSpace();
                if (self.reader.takeIf('}')) break;
                try self.reader.take(',');
            }
        }
        if (seen & node.required != node.required) return error.GivenUp;
        try self.checkConditions(node, first, seen);
        for (fields, 0..) |*field, index| {
            if (seen >> @intCast(index) & 1 == 1) continue;
            try self.nullCell(&self.nodes[@intCast(field.node)], at);
        }
        if (node.extra_column >= 0) {
            try unnamed.write(&self.columns[@intCast(node.extra_column)], at);
        }
    }

    /// Which field a name is of. What came behind the last field the time before is tried first.
    fn fieldOf(self: *Walk, fields: []const Child, expected: usize, name: []const u8) ?usize {
        const guess = self.guesses[expected];
        if (guess < fields.len and self.isNamed(&fields[guess], name)) return guess;
        for (fields, 0..) |*field, index| {
            if (self.isNamed(field, name)) {
                self.guesses[expected] = @intCast(index);
                return index;
            }
        }
        return null;
    }

    fn isNamed(self: *const Walk, field: *const Child, name: []const u8) bool {
        const known = self.names[@intCast(field.name_at)..][0..@intCast(field.name_length)];
        return std.mem.eql(u8, known, name);
    }

    fn checkConditions(self: *const Walk, node: *const Node, first: usize, seen: u64) GivenUp!void {
        const begin: usize = @intCast(node.first_condition);
        for (self.conditions[begin..][0..@intCast(node.conditions)]) |*condition| {
            var holds = seen & condition.needed == condition.needed;
            if (holds and condition.child >= 0) {
                const index: usize = @intCast(condition.child);
                const is_there = seen >> @intCast(index) & 1 == 1;
                const code = self.codes[first + index];
                holds = !is_there or condition.categories >> @intCast(code) & 1 == 1;
            }
            const wanted = if (holds) condition.then else condition.otherwise;
            if (seen & wanted != wanted) return error.GivenUp;
        }
    }
};

/// The unnamed fields of one object, as msgspec would write them.
const Unnamed = struct {
    names: [max_unnamed][]const u8 = undefined,
    values: [max_unnamed][]const u8 = undefined,
    count: usize = 0,

    fn add(self: *Unnamed, name: []const u8, value: []const u8) GivenUp!void {
        if (self.count == max_unnamed) return error.GivenUp;
        for (self.names[0..self.count]) |known| {
            if (std.mem.eql(u8, known, name)) return error.GivenUp; // a repeated name
        }
        self.names[self.count] = name;
        self.values[self.count] = value;
        self.count += 1;
    }

    fn write(self: *const Unnamed, column: *const Column, at: usize) GivenUp!void {
        if (at >= column.validity().len) return error.GivenUp;
        var end: usize = @intCast(column.endsOf()[at]);
        for (self.names[0..self.count], self.values[0..self.count], 0..) |name, value, index| {
            end = try put(column, end, if (index == 0) "{" else ",");
            end = try put(column, end, name);
            end = try put(column, end, ":");
            end = try put(column, end, value);
        }
        if (self.count > 0) end = try put(column, end, "}");
        column.validity()[at] = @intFromBool(self.count > 0);
        column.endsOf()[at + 1] = @intCast(end);
    }
};

/// Copies bytes into a column and returns where they end.
fn put(column: *const Column, at: usize, bytes: []const u8) GivenUp!usize {
    const room = column.bytesOf();
    if (bytes.len > room.len - at) return error.GivenUp;
    @memcpy(room[at..][0..bytes.len], bytes);
    return at + bytes.len;
}

fn checkBounds(node: *const Node, number: f64) GivenUp!f64 {
    if (node.has_minimum != 0) {
        const is_equal = number == node.minimum and node.is_minimum_exclusive == 0;
        if (!is_equal and !(number > node.minimum)) return error.GivenUp;
    }
    if (node.has_maximum != 0) {
        const is_equal = number == node.maximum and node.is_maximum_exclusive == 0;
        if (!is_equal and !(number < node.maximum)) return error.GivenUp;
    }
    return number;
}

/// Gives up a row whose event time is not there, or too far from the time of its append.
fn checkTime(walk: *const Walk, tables: *const Tables, at: usize, append_time: i64) GivenUp!void {
    const column = walk.columnOf(&walk.nodes[@intCast(tables.event_time_node)]);
    if (column.validity()[at] == 0) return error.GivenUp;
    const time = column.cellsOf(i64)[at];
    if (time < tables.min_time or time > tables.max_time) return error.GivenUp;
    const age = append_time - time;
    if (age > tables.max_age or age < -tables.max_skew) return error.GivenUp;
}

/// Writes the rows that are proven to `proven`, in order, and returns how many they are. Cell k of
/// the columns at the top belongs to the k-th of them.
export fn proveRows(tables: *const Tables, values: *const Values, proven: [*]i32) i64 {
    const count: usize = @intCast(values.rows);
    const ends = values.ends[@intCast(values.offset)..][0 .. count + 1];
    const bytes = values.data[0..@intCast(ends[count])];
    const is_null = values.is_null[0..count];
    const rows = proven[0..count];
    var walk = Walk.init(tables);
    const has_times = tables.event_time_node >= 0;
    var done: usize = 0;
    for (0..count) |row| {
        if (is_null[row] != 0) continue;
        const value = bytes[@intCast(ends[row])..@intCast(ends[row + 1])];
        if (value.len > tables.max_value_bytes) continue;
        walk.reader = .{ .bytes = text.withoutPrefix(value) orelse continue };
        walk.event(done) catch continue;
        if (has_times) checkTime(&walk, tables, done, values.append_times[row]) catch continue;
        rows[done] = @intCast(row);
        done += 1;
    }
    return @intCast(done);
}

/// The tables' layout as text: each struct with its size, each field with its offset.
export fn layout() [*:0]const u8 {
    return comptime layoutOf(.{ Node, Child, Category, Condition, Column, Tables, Values });
}

fn layoutOf(comptime structs: anytype) [:0]const u8 {
    @setEvalBranchQuota(100_000);
    var words: [:0]const u8 = "";
    for (structs) |Part| {
        words = words ++ std.fmt.comptimePrint("[{d}]", .{@sizeOf(Part)});
        for (std.meta.fieldNames(Part)) |name| {
            words = words ++ std.fmt.comptimePrint(" {s}:{d}", .{ name, @offsetOf(Part, name) });
        }
    }
    return words;
}
