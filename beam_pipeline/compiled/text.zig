//! Reading JSON: texts, names, numbers, times. What is not certain is given up.

const std = @import("std");

pub const GivenUp = error{GivenUp};

const prefix_bytes = 5; // judge.WIRE_PREFIX_BYTES

/// A value without the prefix of Confluent's wire format; null if there is no JSON behind it.
pub fn withoutPrefix(value: []const u8) ?[]const u8 {
    if (value.len == 0 or value[0] != 0) return value;
    if (value.len <= prefix_bytes or value[prefix_bytes] == 0) return null;
    return value[prefix_bytes..];
}

/// A JSON text, and how far it is read.
pub const Reader = struct {
    bytes: []const u8,
    at: usize = 0,

    pub fn isAtEnd(self: *const Reader) bool {
        return self.at == self.bytes.len;
    }

    pub fn peek(self: *const Reader) GivenUp!u8 {
        return if (self.at < self.bytes.len) self.bytes[self.at] else error.GivenUp;
    }

    pub fn skipSpace(self: *Reader) void {
        while (self.at < self.bytes.len) : (self.at += 1) {
            switch (self.bytes[self.at]) {
                ' ', '\t', '\n', '\r' => {},
                else => return,
            }
        }
    }

    pub fn takeIf(self: *Reader, byte: u8) bool {
        const is_there = self.at < self.bytes.len and self.bytes[self.at] == byte;
        if (is_there) self.at += 1;
        return is_there;
    }

    pub fn take(self: *Reader, byte: u8) GivenUp!void {
        if (!self.takeIf(byte)) return error.GivenUp;
    }

    pub fn word(self: *Reader, comptime wanted: []const u8) GivenUp!void {
        if (!std.mem.startsWith(u8, self.bytes[self.at..], wanted)) return error.GivenUp;
        self.at += wanted.len;
    }

    pub fn boolean(self: *Reader) GivenUp!bool {
        const is_true = try self.peek() == 't';
        if (is_true) try self.word("true") else try self.word("false");
        return is_true;
    }

    /// A text without escapes, without its quotes.
    pub fn plainText(self: *Reader) GivenUp![]const u8 {
        try self.take('"');
        const begin = self.at;
        const stop = try self.stopOf(begin);
        if (self.bytes[stop.at] != '"') return error.GivenUp;
        const found = self.bytes[begin..stop.at];
        if (stop.is_beyond_ascii) _ = try pointsOf(found);
        self.at = stop.at + 1;
        return found;
    }

    /// A name without escapes, with its quotes.
    pub fn quotedName(self: *Reader) GivenUp![]const u8 {
        const begin = self.at;
        _ = try self.plainText();
        return self.bytes[begin..self.at];
    }

    const Copied = struct { length: usize, points: i64 };

    /// Copies a text to `room`, its escapes resolved.
    pub fn textInto(self: *Reader, room: []u8) GivenUp!Copied {
        try self.take('"');
        var length: usize = 0;
        var is_beyond_ascii = false;
        while (true) {
            const stop = try self.stopOf(self.at);
            const part = self.bytes[self.at..stop.at];
            if (part.len > room.len - length) return error.GivenUp;
            @memcpy(room[length..][0..part.len], part);
            length += part.len;
            is_beyond_ascii = is_beyond_ascii or stop.is_beyond_ascii;
            self.at = stop.at + 1;
            if (self.bytes[stop.at] == '"') break;
            const point = try self.escape();
            is_beyond_ascii = is_beyond_ascii or point >= 0x80;
            if (room.len - length < 4) return error.GivenUp;
            length += std.unicode.utf8Encode(point, room[length..]) catch return error.GivenUp;
        }
        var points: i64 = @intCast(length);
        if (is_beyond_ascii) points = try pointsOf(room[0..length]);
        return .{ .length = length, .points = points };
    }

    /// The code point of an escape, behind its backslash.
    fn escape(self: *Reader) GivenUp!u21 {
        const letter = try self.peek();
        self.at += 1;
        return switch (letter) {
            '"', '\\', '/' => letter,
            'b' => 0x08,
            'f' => 0x0C,
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => self.unicodeEscape(),
            else => error.GivenUp,
        };
    }

    fn unicodeEscape(self: *Reader) GivenUp!u21 {
        const high: u21 = try self.fourHexDigits();
        if (high < 0xD800 or high > 0xDFFF) return high;
        if (high > 0xDBFF) return error.GivenUp; // a low surrogate alone
        try self.word("\\u");
        const low: u21 = try self.fourHexDigits();
        if (low < 0xDC00 or low > 0xDFFF) return error.GivenUp;
        return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
    }

    fn fourHexDigits(self: *Reader) GivenUp!u16 {
        if (self.bytes.len - self.at < 4) return error.GivenUp;
        var value: u16 = 0;
        for (self.bytes[self.at..][0..4]) |byte| {
            const digit = std.fmt.charToDigit(byte, 16) catch return error.GivenUp;
            value = value * 16 + digit;
        }
        self.at += 4;
        return value;
    }

    const Stop = struct { at: usize, is_beyond_ascii: bool };

    /// Where the next quote or backslash is; given up at a control character.
    fn stopOf(self: *const Reader, begin: usize) GivenUp!Stop {
        const width = 16;
        const Block = @Vector(width, u8);
        const bytes = self.bytes;
        var at = begin;
        var is_beyond_ascii = false;
        while (bytes.len - at >= width) : (at += width) {
            const block: Block = bytes[at..][0..width].*;
            const quotes: u16 = @bitCast(block == @as(Block, @splat('"')));
            const slashes: u16 = @bitCast(block == @as(Block, @splat('\\')));
            const controls: u16 = @bitCast(block < @as(Block, @splat(0x20)));
            const high: u16 = @bitCast(block >= @as(Block, @splat(0x80)));
            const stops = quotes | slashes | controls;
            if (stops == 0) {
                is_beyond_ascii = is_beyond_ascii or high != 0;
                continue;
            }
            const before: u4 = @intCast(@ctz(stops));
            if (high & ((@as(u16, 1) << before) - 1) != 0) is_beyond_ascii = true;
            if (controls >> before & 1 == 1) return error.GivenUp;
            return .{ .at = at + before, .is_beyond_ascii = is_beyond_ascii };
        }
        while (at < bytes.len) : (at += 1) {
            switch (bytes[at]) {
                '"', '\\' => return .{ .at = at, .is_beyond_ascii = is_beyond_ascii },
                0...0x1F => return error.GivenUp,
                0x80...0xFF => is_beyond_ascii = true,
                else => {},
            }
        }
        return error.GivenUp;
    }

    /// A number without an exponent, of at most 18 digits, that is not minus zero.
    pub fn number(self: *Reader) GivenUp!Digits {
        const is_negative = self.takeIf('-');
        const begin = self.at;
        var digits = Digits{ .is_negative = is_negative };
        try self.digitsInto(&digits);
        const whole = self.bytes[begin..self.at];
        if (whole.len > 1 and whole[0] == '0') return error.GivenUp;
        if (self.takeIf('.')) {
            const point = self.at;
            try self.digitsInto(&digits);
            digits.decimals = @intCast(self.at - point);
        }
        if (self.at - begin > max_number_bytes) return error.GivenUp;
        if (is_negative and digits.mantissa == 0) return error.GivenUp;
        if (self.at < self.bytes.len) switch (self.bytes[self.at]) {
            'e', 'E', '.' => return error.GivenUp,
            else => {},
        };
        return digits;
    }

    fn digitsInto(self: *Reader, digits: *Digits) GivenUp!void {
        const begin = self.at;
        while (self.at < self.bytes.len) : (self.at += 1) {
            const byte = self.bytes[self.at];
            if (byte < '0' or byte > '9') break;
            if (digits.mantissa >= max_mantissa / 10) return error.GivenUp;
            digits.mantissa = digits.mantissa * 10 + (byte - '0');
        }
        if (self.at == begin) return error.GivenUp;
    }
};

const max_mantissa = 1_000_000_000_000_000_000; // 18 digits
const max_number_bytes = 20;

const powers_of_ten = [_]f64{
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
};

/// The number `mantissa / 10**decimals`.
pub const Digits = struct {
    is_negative: bool,
    mantissa: u64 = 0,
    decimals: i64 = 0,

    pub fn signed(self: Digits) i64 {
        const whole: i64 = @intCast(self.mantissa);
        return if (self.is_negative) -whole else whole;
    }

    /// The nearest double. Both operands of the division are exact, so that it is rounded once
    /// (Clinger 1990, "How to read floating point numbers accurately").
    pub fn double(self: Digits) GivenUp!f64 {
        if (self.mantissa > 1 << 53) return error.GivenUp;
        const whole: f64 = @floatFromInt(self.mantissa);
        const magnitude = whole / powers_of_ten[@intCast(self.decimals)];
        return if (self.is_negative) -magnitude else magnitude;
    }
};

/// How many code points a text has; given up if it is not UTF-8 (RFC 3629).
fn pointsOf(bytes: []const u8) GivenUp!i64 {
    const points = std.unicode.utf8CountCodepoints(bytes) catch return error.GivenUp;
    return @intCast(points);
}

pub fn isUuid(bytes: []const u8) bool {
    if (bytes.len != 36) return false;
    for (bytes, 0..) |byte, at| {
        switch (at) {
            8, 13, 18, 23 => if (byte != '-') return false,
            else => if (!std.ascii.isHex(byte)) return false,
        }
    }
    return true;
}

/// Days since 1970 of a date of the years 1 to 9999, such as 2026-01-31.
pub fn dateOf(bytes: []const u8) GivenUp!i32 {
    if (bytes.len != 10 or bytes[4] != '-' or bytes[7] != '-') return error.GivenUp;
    const year = try digitsOf(bytes[0..4]);
    const month = try digitsOf(bytes[5..7]);
    const day = try digitsOf(bytes[8..10]);
    if (year < 1 or month < 1 or month > 12) return error.GivenUp;
    if (day < 1 or day > daysIn(year, month)) return error.GivenUp;
    return daysBefore(year, month) + day - 1;
}

fn daysIn(year: i32, month: i32) i32 {
    return switch (month) {
        2 => if (isLeap(year)) 29 else 28,
        4, 6, 9, 11 => 30,
        else => 31,
    };
}

fn isLeap(year: i32) bool {
    return @rem(year, 4) == 0 and (@rem(year, 100) != 0 or @rem(year, 400) == 0);
}

/// Days from 1970-01-01 to the first of a month (Hinnant, "chrono-compatible low-level date
/// algorithms": a year that begins in March ends with the leap day).
fn daysBefore(year: i32, month: i32) i32 {
    const from_march = @mod(month + 9, 12);
    const shifted = if (month <= 2) year - 1 else year;
    const leap_days = @divFloor(shifted, 4) - @divFloor(shifted, 100) + @divFloor(shifted, 400);
    return shifted * 365 + leap_days + @divFloor(153 * from_march + 2, 5) - 719468;
}

/// Microseconds since 1970 of a time such as 2026-01-31T12:30:00.250+01:00 (RFC 3339, upper case,
/// at most six digits behind the point, no leap second).
pub fn timeOf(bytes: []const u8) GivenUp!i64 {
    if (bytes.len < 20) return error.GivenUp;
    if (bytes[10] != 'T' or bytes[13] != ':' or bytes[16] != ':') return error.GivenUp;
    const days = try dateOf(bytes[0..10]);
    const hour = try digitsOf(bytes[11..13]);
    const minute = try digitsOf(bytes[14..16]);
    const second = try digitsOf(bytes[17..19]);
    if (hour > 23 or minute > 59 or second > 59) return error.GivenUp;
    var zone_at: usize = 19;
    var micros: i64 = 0;
    if (bytes[19] == '.') {
        zone_at = 20;
        while (zone_at < bytes.len and std.ascii.isDigit(bytes[zone_at])) zone_at += 1;
        micros = try microsOf(bytes[20..zone_at]);
    }
    const seconds = @as(i64, days) * 86400 + hour * 3600 + minute * 60 + second;
    return (seconds - try offsetOf(bytes[zone_at..])) * 1_000_000 + micros;
}

fn microsOf(fraction: []const u8) GivenUp!i64 {
    if (fraction.len == 0 or fraction.len > 6) return error.GivenUp;
    var micros: i64 = try digitsOf(fraction);
    for (fraction.len..6) |_| micros *= 10;
    return micros;
}

/// Seconds that a zone such as Z or +01:00 is ahead of UTC.
fn offsetOf(zone: []const u8) GivenUp!i64 {
    if (std.mem.eql(u8, zone, "Z")) return 0;
    if (zone.len != 6 or zone[3] != ':') return error.GivenUp;
    const hours = try digitsOf(zone[1..3]);
    const minutes = try digitsOf(zone[4..6]);
    if (hours > 23 or minutes > 59) return error.GivenUp;
    const seconds: i64 = hours * 3600 + minutes * 60;
    return switch (zone[0]) {
        '+' => seconds,
        '-' => -seconds,
        else => error.GivenUp,
    };
}

fn digitsOf(bytes: []const u8) GivenUp!i32 {
    var value: i32 = 0;
    for (bytes) |byte| {
        if (!std.ascii.isDigit(byte)) return error.GivenUp;
        value = value * 10 + (byte - '0');
    }
    return value;
}
