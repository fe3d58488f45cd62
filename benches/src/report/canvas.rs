//! Pixels to draw on, and letters that were drawn beforehand: plots look the same everywhere, and
//! neither fonts nor libraries for them have to be on the machine.

use std::{convert::Infallible, fs::File, io::BufWriter, path::Path};

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
    rasterizer,
    text_anchor::{HPos, VPos},
};

use crate::error::{BenchError, Result};

/// Text at least as large is drawn with the larger letters.
const LARGE_FROM: f64 = 19.0;

/// What stands for a character that has no letter.
const UNKNOWN: char = '?';

/// What plotters calls a failed drawing.
type Drawn = std::result::Result<(), DrawingErrorKind<Infallible>>;

/// A picture, 8 bits each of red, green and blue, row by row. White at first.
#[derive(Debug)]
pub struct Canvas {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

// === impl Canvas ===

impl Canvas {
    /// White.
    pub fn new((width, height): (u32, u32)) -> Self {
        Self { width, height, pixels: vec![255; width as usize * height as usize * 3] }
    }

    /// Writes it as a PNG file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let failed = || BenchError::io(format!("writing {}", path.display()));
        let file = File::create(path).map_err(failed())?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(|e| failed()(e.into()))?;
        writer.write_image_data(&self.pixels).map_err(|e| failed()(e.into()))?;
        writer.finish().map_err(|e| failed()(e.into()))
    }

    fn blend(&mut self, (x, y): BackendCoord, rgb: (u8, u8, u8), alpha: f64) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        if x >= self.width || y >= self.height {
            return;
        }
        let at = (y as usize * self.width as usize + x as usize) * 3;
        let mix = |old: u8, new: u8| {
            (f64::from(old) * (1.0 - alpha) + f64::from(new) * alpha).round() as u8
        };
        for (old, new) in self.pixels[at..at + 3].iter_mut().zip([rgb.0, rgb.1, rgb.2]) {
            *old = mix(*old, new);
        }
    }
}

impl DrawingBackend for &mut Canvas {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        (self.width, self.height)
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, point: BackendCoord, color: BackendColor) -> Drawn {
        self.blend(point, color.rgb, color.alpha);
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(
        &mut self,
        text: &str,
        style: &S,
        (at_x, at_y): BackendCoord,
    ) -> Drawn {
        let (width, height) = size_of(text, style.size());
        let anchor = style.anchor();
        let left = match anchor.h_pos {
            HPos::Left => 0,
            HPos::Center => -width / 2,
            HPos::Right => -width,
        };
        let top = match anchor.v_pos {
            VPos::Top => 0,
            VPos::Center => -height / 2,
            VPos::Bottom => -height,
        };
        let (turn, color) = (style.transform(), style.color());
        let (letters, letter_width) = letters_of(style.size());
        for (i, character) in text.chars().enumerate() {
            let drawn = get_raster(character, FontWeight::Regular, letters)
                .or_else(|| get_raster(UNKNOWN, FontWeight::Regular, letters))
                .expect("the font has a question mark");
            let begins = left + i as i32 * letter_width;
            for (y, row) in drawn.rows().enumerate() {
                for (x, ink) in row.iter().enumerate().filter(|(_, ink)| **ink > 0) {
                    let (x, y) = turn.transform(begins + x as i32, top + y as i32);
                    let alpha = color.alpha * f64::from(*ink) / 255.0;
                    self.blend((at_x + x, at_y + y), color.rgb, alpha);
                }
            }
        }
        Ok(())
    }

    fn estimate_text_size<S: BackendTextStyle>(
        &self,
        text: &str,
        style: &S,
    ) -> std::result::Result<(u32, u32), DrawingErrorKind<Infallible>> {
        let (width, height) = size_of(text, style.size());
        Ok((width.unsigned_abs(), height.unsigned_abs()))
    }

    fn draw_line<S: BackendStyle>(
        &mut self,
        from: BackendCoord,
        to: BackendCoord,
        style: &S,
    ) -> Drawn {
        // Lines along the axes are sharp; plotters would blur them.
        let color = style.color();
        if from.0 != to.0 && from.1 != to.1 {
            return rasterizer::draw_line(self, from, to, style);
        }
        let half = style.stroke_width().saturating_sub(1) as i32 / 2;
        let span = |a: i32, b: i32, across: bool| {
            let (low, high) = (a.min(b), a.max(b));
            if across { (low - half)..=(high + half) } else { low..=high }
        };
        let vertical = from.0 == to.0;
        for x in span(from.0, to.0, vertical) {
            for y in span(from.1, to.1, !vertical) {
                self.blend((x, y), color.rgb, color.alpha);
            }
        }
        Ok(())
    }
}

/// Letters for a size of text, and how wide they are.
fn letters_of(size: f64) -> (RasterHeight, i32) {
    let letters = if size >= LARGE_FROM { RasterHeight::Size20 } else { RasterHeight::Size16 };
    (letters, get_raster_width(FontWeight::Regular, letters) as i32)
}

fn size_of(text: &str, size: f64) -> (i32, i32) {
    let (letters, width) = letters_of(size);
    (width * text.chars().count() as i32, letters.val() as i32)
}

#[cfg(test)]
mod tests {
    use plotters::prelude::*;

    use super::*;

    fn ink(canvas: &Canvas) -> usize {
        canvas.pixels.chunks(3).filter(|pixel| *pixel != [255, 255, 255]).count()
    }

    #[test]
    fn text_leaves_ink_where_it_was_wanted() {
        let mut canvas = Canvas::new((100, 40));
        {
            let area = (&mut canvas).into_drawing_area();
            let style = ("sans-serif", 16).into_font().color(&BLACK);
            area.draw_text("ab", &style, (50, 20)).unwrap();
            area.present().unwrap();
        }
        assert!(ink(&canvas) > 20);
        let left: usize = (0..40)
            .map(|y| canvas.pixels[y * 300..y * 300 + 150].to_vec())
            .flat_map(|row| row.into_iter().filter(|byte| *byte != 255))
            .count();
        assert_eq!(left, 0, "nothing is left of where it begins");
    }

    #[test]
    fn nothing_is_drawn_outside_and_unknown_letters_are_marked() {
        let mut canvas = Canvas::new((10, 10));
        {
            let area = (&mut canvas).into_drawing_area();
            let style = ("sans-serif", 30).into_font().color(&RED);
            area.draw_text("\u{4e00}\u{4e00}\u{4e00}", &style, (-5, -5)).unwrap();
            area.draw(&PathElement::new(vec![(-5, 3), (50, 3)], BLUE)).unwrap();
        }
        let row = &canvas.pixels[3 * 30..4 * 30];
        assert!(row.chunks(3).all(|pixel| pixel == [0, 0, 255]), "{row:?}");
    }

    #[test]
    fn half_transparent_is_half() {
        let mut canvas = Canvas::new((1, 1));
        canvas.blend((0, 0), (0, 0, 0), 0.5);
        assert_eq!(canvas.pixels, [128, 128, 128]);
    }

    #[test]
    fn the_file_is_read_as_it_was_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let mut canvas = Canvas::new((3, 2));
        canvas.blend((2, 1), (1, 2, 3), 1.0);
        canvas.write(&path).unwrap();
        let file = std::io::BufReader::new(File::open(&path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let about = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((about.width, about.height), (3, 2));
        assert_eq!(pixels, canvas.pixels);
        assert_eq!(pixels[15..], [1, 2, 3]);
    }
}
